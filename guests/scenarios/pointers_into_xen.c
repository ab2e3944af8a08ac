/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Xen's own addresses as targets. Xen could write there, a guest must not get it to: the M2P, the
 * area of descriptor tables, and all the rest of the sixteen L4 slots. */

#include "scenario.h"

void kernel_main(void)
{
    uint8_t *m2p = (void *)machine_to_phys_mapping;

    for (unsigned int slot = 0; slot < 16; slot++)
        for (unsigned long offset = 0; offset < 0x200000; offset += 0x1fff) {
            void *target = (void *)(HYPERVISOR_VIRT_START + ((unsigned long)slot << 39) + offset);

            EXPECT(-XEN_EFAULT, hypercall(xen_version, XENVER_extraversion, target));
            EXPECT(-XEN_EFAULT, hypercall(vcpu_op, VCPUOP_get_runstate_info, 0, target));
            EXPECT(-XEN_EFAULT, hypercall(vcpu_op, VCPUOP_set_singleshot_timer, 0, target));
        }
    EXPECT(-XEN_EFAULT, hypercall(console_io, CONSOLEIO_write, 8, m2p));
}
