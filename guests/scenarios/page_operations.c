/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* CLEAR_PAGE and COPY_PAGE write to a frame past all mappings: not to a table, not to a descriptor
 * page, not to frames of others, not to a read-only... what is mapped read-only is still the guest's. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long *page = alloc_page(), *source = alloc_page(), *gdt = alloc_table();
    unsigned long gdt_mfn = virt_to_mfn(gdt);

    source[0] = 0x1111;
    page[0] = 0x2222;
    EXPECT(0, hypercall(set_gdt, &gdt_mfn, 512));
    for (unsigned int level = 1; level <= 4; level++) {
        unsigned long *table = find_table(VIRT_BASE, level), before = table[511];

        REFUSED(mmuext(MMUEXT_CLEAR_PAGE, virt_to_mfn(table), 0));
        REFUSED(mmuext(MMUEXT_COPY_PAGE, virt_to_mfn(table), virt_to_mfn(source)));
        EXPECT(before, table[511]);
    }
    REFUSED(mmuext(MMUEXT_CLEAR_PAGE, gdt_mfn, 0));
    REFUSED(mmuext(MMUEXT_COPY_PAGE, gdt_mfn, virt_to_mfn(source)));
    for (unsigned long mfn = 0; mfn < 0x10000; mfn += 511) {
        REFUSED(mmuext(MMUEXT_CLEAR_PAGE, mfn, 0));
        REFUSED(mmuext(MMUEXT_COPY_PAGE, mfn, virt_to_mfn(source)));
        if (mfn != start_info->shared_info >> PAGE_SHIFT)
            REFUSED(mmuext(MMUEXT_COPY_PAGE, virt_to_mfn(page), mfn));
    }
    REFUSED(mmuext(MMUEXT_COPY_PAGE, virt_to_mfn(page), 0x5000000));
    EXPECT(0x2222, page[0]);
    EXPECT(0, mmuext(MMUEXT_COPY_PAGE, virt_to_mfn(page), virt_to_mfn(source)));
    EXPECT(0x1111, page[0]);
    EXPECT(0, mmuext(MMUEXT_CLEAR_PAGE, virt_to_mfn(page), 0));
    EXPECT(0, page[0]);
}
