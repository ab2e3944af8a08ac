/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Mapping grants of domains that do not exist, by references beyond the table, to addresses that are
 * no entry, and unmapping by handles that nobody gave. The guest may grant to itself in vain. */

#include "scenario.h"

void kernel_main(void)
{
    static const unsigned int references[] = {0, 1, 8, 511, 512, 0x7fffffff, ~0u};
    uint8_t *page = alloc_page();

    for (unsigned int i = 0; i < COUNT(references); i++)
        for (unsigned int domid = 0; domid < 0x7ff5; domid = domid * 3 + 2) {
            gnttab_map_grant_ref_t map_op = {
                .host_addr = (unsigned long)page, .flags = GNTMAP_host_map,
                .ref = references[i], .dom = (domid_t)domid,
            };
            gnttab_unmap_grant_ref_t unmap = {
                .host_addr = (unsigned long)page, .handle = references[i],
            };
            gnttab_copy_t copy = {.len = 64, .flags = GNTCOPY_source_gref};
            long result = hypercall(grant_table_op, GNTTABOP_map_grant_ref, &map_op, 1);

            CHECK(result < 0 || map_op.status < 0);
            result = hypercall(grant_table_op, GNTTABOP_unmap_grant_ref, &unmap, 1);
            CHECK(result < 0 || unmap.status < 0);
            copy.source.u.ref = references[i];
            copy.source.domid = (domid_t)domid;
            copy.dest.u.gmfn = virt_to_mfn(page);
            copy.dest.domid = DOMID_SELF;
            result = hypercall(grant_table_op, GNTTABOP_copy, &copy, 1);
            CHECK(result < 0 || copy.status < 0);
        }
    for (unsigned int command = 13; command < 40; command++)
        EXPECT(-XEN_ENOSYS, hypercall(grant_table_op, command, page, 1));
}
