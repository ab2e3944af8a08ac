/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Versions of the grant table: ones that do not exist, there and back with entries in the table, and
 * status frames asked for in version 1. */

#include "scenario.h"

static long set_version(unsigned int version)
{
    gnttab_set_version_t argument = {.version = version};

    return hypercall(grant_table_op, GNTTABOP_set_version, &argument, 1);
}

void kernel_main(void)
{
    static unsigned long frames[64];
    gnttab_setup_table_t setup = {.dom = DOMID_SELF, .nr_frames = 2};
    gnttab_get_status_frames_t status = {.nr_frames = 1, .dom = DOMID_SELF};
    unsigned long *page = alloc_page();

    set_xen_guest_handle(setup.frame_list, frames);
    EXPECT(0, hypercall(grant_table_op, GNTTABOP_setup_table, &setup, 1));
    EXPECT(0, map(page, frames[0] << PAGE_SHIFT | PTE_KERNEL));
    for (unsigned int i = 32; i < 512; i++)
        page[i] = random_number();
    for (unsigned int version = 3; version < 10; version++)
        REFUSED(set_version(version));
    REFUSED(set_version(0));
    REFUSED(set_version(~0u));
    status.frame_list.p = (void *)frames;
    CHECK(hypercall(grant_table_op, GNTTABOP_get_status_frames, &status, 1) < 0 ||
          status.status < 0);
    for (unsigned int round = 0; round < 4; round++) {
        CHECK(set_version(2) <= 0);
        for (unsigned int i = 0; i < 512; i++)
            page[i] = random_number();
        CHECK(set_version(1) <= 0);
    }
    CHECK(hypercall(xen_version, XENVER_version, NULL) > 0);
}
