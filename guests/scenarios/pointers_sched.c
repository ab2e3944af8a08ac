/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* sched_op: a bad argument must neither end the domain nor put the vCPU to sleep. The list of ports
 * of a poll is a second pointer. */

#include "scenario.h"

void kernel_main(void)
{
    static const unsigned int commands[] = {
        SCHEDOP_shutdown, SCHEDOP_shutdown_code, SCHEDOP_poll, SCHEDOP_remote_shutdown,
        SCHEDOP_watchdog,
    };

    for (unsigned int i = 0; i < COUNT(commands); i++)
        EXPECT_BAD_POINTERS(-XEN_EFAULT, hypercall(sched_op, commands[i], bad));
    for (unsigned int number = 0; number < BAD_POINTERS; number++) {
        sched_poll_t poll = {.nr_ports = 2};

        poll.ports.p = (void *)bad_pointer(number);
        EXPECT(-XEN_EFAULT, hypercall(sched_op, SCHEDOP_poll, &poll));
    }
}
