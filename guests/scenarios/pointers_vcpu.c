/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
// vcpus: 2
/* vcpu_op: arguments that cannot be read or written. Setting a timer from one must not start it. */

#include "scenario.h"

void kernel_main(void)
{
    static const unsigned int commands[] = {
        VCPUOP_register_runstate_memory_area, VCPUOP_register_vcpu_time_memory_area,
        VCPUOP_register_vcpu_info, VCPUOP_set_singleshot_timer, VCPUOP_set_periodic_timer,
        VCPUOP_get_runstate_info,
    };

    for (unsigned int i = 0; i < COUNT(commands); i++)
        EXPECT_BAD_POINTERS(-XEN_EFAULT, hypercall(vcpu_op, commands[i], 0, bad));
    EXPECT_BAD_POINTERS(-XEN_EFAULT, hypercall(vcpu_op, VCPUOP_initialise, 1, bad));
    EXPECT(0, hypercall(vcpu_op, VCPUOP_is_up, 1, NULL));
}
