/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Frames that are not the domain's: all of Xen's low frames (but those that it shares: shared info and
 * grant frames), the frame after the last, and numbers far beyond. Neither as a page nor as a table of any level. */

#include "scenario.h"

static unsigned long page_entry, l2_entry, l3_entry, l4_entry, refused;

static void try_frame(unsigned long mfn)
{
    unsigned long value = mfn << PAGE_SHIFT & PTE_FRAME;

    refused += write_entry(page_entry, value | PTE_KERNEL) < 0;
    refused += write_entry(page_entry, value | PTE_READ_ONLY) < 0;
    refused += write_entry(l2_entry, value | PTE_KERNEL) < 0;
    refused += write_entry(l3_entry, value | PTE_KERNEL) < 0;
    refused += write_entry(l4_entry, value | PTE_KERNEL) < 0;
}

void kernel_main(void)
{
    static const unsigned long beyond[] = {
        0x80000, 0xfffff, 0x100000, 0xffffff, 0x7ffffffff, 0x8000000000, 0xffffffffff,
    };
    unsigned long page = (unsigned long)alloc_page(), last = pfn_to_mfn(0), tried = 0;

    gnttab_setup_table_t setup = {.dom = DOMID_SELF, .nr_frames = 1};
    unsigned long grant_frame = 0;

    set_xen_guest_handle(setup.frame_list, &grant_frame);
    EXPECT(0, hypercall(grant_table_op, GNTTABOP_setup_table, &setup, 1));
    page_entry = find_entry(page, 1);
    l2_entry = find_entry(page + (8ul << 20), 2);
    l3_entry = find_entry(page + (1ul << 30), 3);
    l4_entry = find_entry(0, 4);
    EXPECT(0, write_entry(page_entry, 0));
    for (unsigned long pfn = 0; pfn < start_info->nr_pages; pfn++)
        if (pfn_to_mfn(pfn) > last)
            last = pfn_to_mfn(pfn);
    for (unsigned long mfn = 0; mfn < 0x10000; mfn += mfn < 600 ? 1 : 251) {
        if (mfn == start_info->shared_info >> PAGE_SHIFT || mfn == grant_frame)
            continue;
        try_frame(mfn);
        tried += 5;
    }
    EXPECT(tried, refused);
    tried = refused = 0;
    for (unsigned int i = 0; i < COUNT(beyond); i++, tried += 5)
        try_frame(beyond[i]);
    try_frame(last + 1);
    EXPECT(tried + 5, refused);
    EXPECT(0, read_entry(page, 1));
}
