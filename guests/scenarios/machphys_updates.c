/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* MMU_MACHPHYS_UPDATE writes the M2P entry of a frame of the domain's: any value, for no other frame,
 * and a direct write to the M2P faults. Xen does not rely on the values. */

#include "scenario.h"

static long machphys(unsigned long mfn, unsigned long pfn)
{
    mmu_update_t request = {.ptr = mfn << PAGE_SHIFT | MMU_MACHPHYS_UPDATE, .val = pfn};

    return hypercall(mmu_update, &request, 1, NULL, DOMID_SELF);
}

void kernel_main(void)
{
    unsigned long *page = alloc_page();
    unsigned long mfn = virt_to_mfn(page), pfn = virt_to_pfn(page);
    xen_memory_reservation_t give = {.nr_extents = 1, .domid = DOMID_SELF};

    for (unsigned long other = 0; other < 0x10000; other += 509)
        if (other != start_info->shared_info >> PAGE_SHIFT)
            REFUSED(machphys(other, 5));
    REFUSED(machphys(0x1000000, 5));
    REFUSED(machphys(PTE_FRAME >> PAGE_SHIFT, 5));
    EXPECT(0, machphys(mfn, 0x123456789abcdeful));
    EXPECT(0x123456789abcdeful, machine_to_phys_mapping[mfn]);
    EXPECT(0, machphys(mfn, ~0ul));
    EXPECT(TRAP_PAGE_FAULT, try_write(&machine_to_phys_mapping[mfn], 0));
    EXPECT(0, mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0));
    EXPECT(0, map(page, mfn << PAGE_SHIFT | PTE_READ_ONLY));
    EXPECT(0, mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0));
    EXPECT(0, mmuext(MMUEXT_UNPIN_TABLE, mfn, 0));
    EXPECT(0, map(page, 0));
    set_xen_guest_handle(give.extent_start, &mfn);
    EXPECT(1, memory_op(XENMEM_decrease_reservation, &give));
    REFUSED(machphys(mfn, pfn)); /* it is given back */
}
