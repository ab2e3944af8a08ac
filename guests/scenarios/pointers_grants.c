/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* grant_table_op: the array of operations, and the list of frames that setup_table fills. */

#include "scenario.h"

void kernel_main(void)
{
    static const unsigned int commands[] = {
        GNTTABOP_map_grant_ref, GNTTABOP_unmap_grant_ref, GNTTABOP_setup_table, GNTTABOP_transfer,
        GNTTABOP_copy, GNTTABOP_query_size, GNTTABOP_unmap_and_replace, GNTTABOP_set_version,
        GNTTABOP_get_status_frames, GNTTABOP_get_version, GNTTABOP_swap_grant_ref,
    };

    for (unsigned int i = 0; i < COUNT(commands); i++)
        EXPECT_BAD_POINTERS(-XEN_EFAULT, hypercall(grant_table_op, commands[i], bad, 1));
    for (unsigned int number = 0; number < BAD_POINTERS; number++) {
        gnttab_setup_table_t setup = {.dom = DOMID_SELF, .nr_frames = 2};
        long result;

        setup.frame_list.p = (void *)bad_pointer(number);
        result = hypercall(grant_table_op, GNTTABOP_setup_table, &setup, 1);
        CHECK(result == -XEN_EFAULT || (result == 0 && setup.status != GNTST_okay));
    }
}
