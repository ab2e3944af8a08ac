/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* A frame that comes back from Xen tells nothing of what was in it: it is zero, and its old contents
 * cannot be seen through the old mapping after it was given away. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long *page = alloc_page(), mfn = virt_to_mfn(page);
    xen_memory_reservation_t reservation = {.nr_extents = 1, .domid = DOMID_SELF};
    unsigned long frame = mfn, pfn = virt_to_pfn(page);

    for (unsigned int i = 0; i < 512; i++)
        page[i] = 0xdeadbeef;
    EXPECT(0, map(page, 0));
    set_xen_guest_handle(reservation.extent_start, &frame);
    EXPECT(1, memory_op(XENMEM_decrease_reservation, &reservation));
    REFUSED(map(page, mfn << PAGE_SHIFT | PTE_READ_ONLY));
    EXPECT(TRAP_PAGE_FAULT, try_read(page));
    frame = pfn;
    EXPECT(1, memory_op(XENMEM_populate_physmap, &reservation));
    EXPECT(0, map(page, frame << PAGE_SHIFT | PTE_KERNEL));
    for (unsigned int i = 0; i < 512; i++)
        CHECK(page[i] == 0);
}
