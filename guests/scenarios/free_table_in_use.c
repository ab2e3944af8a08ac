/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
// variants: PINNED, MAPPED, IN_TABLE, GDT
/* A frame is given back while it is a pinned table, mapped, part of the tables, or a page of the
 * GDT. It may stay the domain's until its last use ends, but must not get into other hands, nor
 * become writable as a table. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long *page = alloc_page();
    unsigned long pfn = virt_to_pfn(page), mfn = virt_to_mfn(page), frame = mfn, got = 0;
    xen_memory_reservation_t give = {.nr_extents = 1, .domid = DOMID_SELF};
    xen_memory_reservation_t take = {.nr_extents = 1, .domid = DOMID_SELF};
    unsigned long new_pfn = start_info->nr_pages + 5;

    (void)got;
#if defined(PINNED)
    make_read_only(page);
    EXPECT(0, mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0));
#elif defined(IN_TABLE)
    make_read_only(page);
    EXPECT(0, write_entry(find_entry(UNMAPPED, 2), mfn << PAGE_SHIFT | PTE_KERNEL));
#elif defined(GDT)
    make_read_only(page);
    EXPECT(0, hypercall(set_gdt, &frame, 512));
#endif
    set_xen_guest_handle(give.extent_start, &mfn);
    CHECK(memory_op(XENMEM_decrease_reservation, &give) >= 0);
    set_xen_guest_handle(take.extent_start, &new_pfn);
    for (unsigned int i = 0; i < 3; i++, new_pfn++) {
        unsigned long asked = new_pfn;
        long count = memory_op(XENMEM_populate_physmap, &take);

        CHECK(count == 0 || count == 1);
        if (count == 1)
            CHECK(new_pfn != frame); /* not the one that is still in use */
        new_pfn = asked;
    }
    EXPECT(NO_TRAP, try_read(page));
#ifndef MAPPED
    REFUSED(map(page, frame << PAGE_SHIFT | PTE_KERNEL));
    EXPECT(TRAP_PAGE_FAULT, try_write(page, ~0ul));
#endif
    CHECK(pfn < start_info->nr_pages);
}
