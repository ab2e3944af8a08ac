/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Shutdown of another domain, of oneself by the call for others, with pointers at bad places: the domain
 * goes on. (An unknown reason ends it: that is one's own right.) */

#include "scenario.h"

void kernel_main(void)
{
    for (unsigned int domid = 0; domid < 0x8000; domid += domid < 4 ? 1 : 4999) {
        sched_remote_shutdown_t remote = {.domain_id = (domid_t)domid, .reason = 3};

        REFUSED(hypercall(sched_op, SCHEDOP_remote_shutdown, &remote));
    }
    EXPECT_BAD_POINTERS(-XEN_EFAULT, hypercall(sched_op, SCHEDOP_shutdown, bad));
    REFUSED(hypercall(sched_op, SCHEDOP_pin_override, alloc_page()));
}
