/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* A batch whose calls change the batch: an entry writes over the ones behind it, takes the list's page
 * away, or turns it read-only. Each entry is read when its turn comes. */

#include "scenario.h"

void kernel_main(void)
{
    multicall_entry_t *calls = alloc_page();
    unsigned long own = frame_of(calls, PTE_KERNEL);

    calls[0].op = __HYPERVISOR_xen_version; /* its answer goes over entry 1 */
    calls[0].args[0] = XENVER_capabilities;
    calls[0].args[1] = (unsigned long)&calls[1];
    calls[1].op = __HYPERVISOR_xen_version;
    EXPECT(0, hypercall(multicall, calls, 2));
    REFUSED(calls[1].result);

    memset(calls, 0, PAGE_SIZE);
    calls[0].op = __HYPERVISOR_update_va_mapping;
    calls[0].args[0] = (unsigned long)calls;
    calls[0].args[1] = own & ~PTE_RW;
    calls[0].args[2] = UVMF_INVLPG;
    calls[1].op = __HYPERVISOR_xen_version;
    EXPECT(-XEN_EFAULT, hypercall(multicall, calls, 2));
    EXPECT(0, calls[1].result);

    EXPECT(0, map(calls, own));
    memset(calls, 0, PAGE_SIZE);
    calls[0].op = __HYPERVISOR_update_va_mapping;
    calls[0].args[0] = (unsigned long)calls;
    calls[0].args[2] = UVMF_INVLPG;
    EXPECT(-XEN_EFAULT, hypercall(multicall, calls, 2));
    EXPECT(TRAP_PAGE_FAULT, try_read(calls));
    EXPECT(0, map(calls, own));
}
