/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* A kernel whose upcall sends its own event again, without end: it makes progress all the same, and
 * stops when it likes. */

#include "scenario.h"

static volatile unsigned int rounds;
static evtchn_send_t send;

static void again(evtchn_port_t port)
{
    if (++rounds < 2000)
        event_op(EVTCHNOP_send, &send);
}

void kernel_main(void)
{
    evtchn_bind_ipi_t ipi = {.vcpu = 0};

    EXPECT(0, event_op(EVTCHNOP_bind_ipi, &ipi));
    send.port = ipi.port;
    event_hook = again;
    shared_info->evtchn_mask[0] = 0;
    unmask_events();
    EXPECT(0, event_op(EVTCHNOP_send, &send));
    for (unsigned int i = 0; i < 100000 && rounds < 2000; i++)
        hypercall(xen_version, XENVER_version, NULL);
    EXPECT(2000, rounds);
}
