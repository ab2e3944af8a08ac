/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* setup_table for more and more frames, up to the limit and beyond, for other domains, and with a list
 * at its end; the frames can be mapped, and are tables of nothing. */

#include "scenario.h"

void kernel_main(void)
{
    static unsigned long frames[4096];
    uint8_t *page = alloc_page();
    gnttab_query_size_t size = {.dom = DOMID_SELF};

    EXPECT(0, hypercall(grant_table_op, GNTTABOP_query_size, &size, 1));
    CHECK(size.status == GNTST_okay && size.max_nr_frames < 4096);
    for (unsigned int count = 0; count < 4096; count += 37) {
        gnttab_setup_table_t setup = {.dom = DOMID_SELF, .nr_frames = count};

        set_xen_guest_handle(setup.frame_list, frames);
        EXPECT(0, hypercall(grant_table_op, GNTTABOP_setup_table, &setup, 1));
        CHECK((setup.status == GNTST_okay) == (count <= size.max_nr_frames));
    }
    for (unsigned int i = 0; i < 4; i++) {
        REFUSED(mmuext(MMUEXT_PIN_L1_TABLE, frames[i], 0));
        REFUSED(hypercall(set_gdt, &frames[i], 512));
        EXPECT(0, map(page, frames[i] << PAGE_SHIFT | PTE_KERNEL));
        EXPECT(NO_TRAP, try_write(page, ~0ul));
    }
    for (unsigned int domid = 0; domid < 0x7ff0; domid += 331) {
        gnttab_setup_table_t setup = {.dom = (domid_t)domid, .nr_frames = 1};
        long result;

        if (domid == 1)
            continue;
        set_xen_guest_handle(setup.frame_list, frames);
        result = hypercall(grant_table_op, GNTTABOP_setup_table, &setup, 1);
        CHECK(result < 0 || setup.status < 0);
    }
}
