/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Watchdogs: two can be had, no third; a bad number, a stop of one that is not set, and timeouts up to
 * the largest. They are stopped before they bite. */

#include "scenario.h"

static long set(unsigned int id, unsigned int timeout)
{
    sched_watchdog_t watchdog = {.id = id, .timeout = timeout};

    return hypercall(sched_op, SCHEDOP_watchdog, &watchdog);
}

void kernel_main(void)
{
    REFUSED(set(1, 5)); /* not set yet */
    EXPECT(1, set(0, ~0u));
    EXPECT(2, set(0, 3600));
    REFUSED(set(0, 3600));
    for (unsigned int id = 3; id; id *= 2)
        REFUSED(set(id, 5));
    EXPECT(0, set(1, 1000));
    EXPECT(0, set(1, 0));
    REFUSED(set(1, 0));
    EXPECT(0, set(2, 0));
    EXPECT(1, set(0, 100));
    EXPECT(0, set(1, 0));
}
