/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* The shared info page counts as one of the guest's that is always in writable use: it can be mapped,
 * and written by any means; it can neither be a table, nor a descriptor page, nor be given back. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long mfn = start_info->shared_info >> PAGE_SHIFT, pfn = mfn;
    unsigned long gdt[1] = {mfn};
    xen_memory_reservation_t reservation = {.nr_extents = 1, .domid = DOMID_SELF};

    for (unsigned int level = 0; level < 4; level++)
        REFUSED(mmuext(MMUEXT_PIN_L1_TABLE + level, mfn, 0));
    REFUSED(mmuext(MMUEXT_NEW_BASEPTR, mfn, 0));
    REFUSED(mmuext(MMUEXT_NEW_USER_BASEPTR, mfn, 0));
    REFUSED(mmuext(MMUEXT_UNPIN_TABLE, mfn, 0));
    REFUSED(hypercall(set_gdt, gdt, 512));
    REFUSED(write_entry(find_entry(UNMAPPED, 2) ?: find_entry(VIRT_BASE + (8ul << 20), 2),
                        mfn << PAGE_SHIFT | PTE_KERNEL));
    set_xen_guest_handle(reservation.extent_start, &pfn);
    CHECK(memory_op(XENMEM_decrease_reservation, &reservation) <= 0);
    EXPECT(0, map(alloc_page(), mfn << PAGE_SHIFT | PTE_KERNEL));
}
