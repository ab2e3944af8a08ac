/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
// vcpus: 2
/* vCPUs that do not exist, commands that do not exist, and all commands for a vCPU that has no state
 * yet. */

#include "scenario.h"

void kernel_main(void)
{
    static const unsigned int bad[] = {2, 3, 63, 64, 8191, 8192, 0x7fffffff, 0x80000000, ~0u};
    uint8_t *page = alloc_page();

    for (unsigned int i = 0; i < COUNT(bad); i++)
        for (unsigned int command = 0; command < 20; command++)
            REFUSED(hypercall(vcpu_op, command, bad[i], page));
    for (unsigned int command = 20; command < 200; command++)
        EXPECT(-XEN_ENOSYS, hypercall(vcpu_op, command, 0, page));
    EXPECT(-XEN_EINVAL, hypercall(vcpu_op, VCPUOP_up, 1, NULL));
    EXPECT(0, hypercall(vcpu_op, VCPUOP_down, 1, NULL));
    EXPECT(0, hypercall(vcpu_op, VCPUOP_is_up, 1, NULL));
    EXPECT(1, hypercall(vcpu_op, VCPUOP_is_up, 0, NULL));
    REFUSED(hypercall(vcpu_op, VCPUOP_initialise, 0, page));
}
