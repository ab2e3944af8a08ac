/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* SCHEDOP_poll with too many ports, ports of nothing, deadlines that are over; yields without end;
 * watchdogs that do not exist; blocks with an event pending. None of it puts the vCPU to sleep. */

#include "scenario.h"

void kernel_main(void)
{
    static evtchn_port_t ports[256];
    static const unsigned int bad[] = {0, 4095, 4096, 131072, ~0u};
    evtchn_bind_ipi_t ipi = {.vcpu = 0};
    evtchn_send_t send;

    for (unsigned int count = 129; count < 100000; count = count * 3) {
        sched_poll_t poll = {.nr_ports = count, .timeout = 1};

        set_xen_guest_handle(poll.ports, ports);
        EXPECT(-XEN_EINVAL, hypercall(sched_op, SCHEDOP_poll, &poll));
    }
    for (unsigned int i = 1; i < COUNT(bad); i++) {
        sched_poll_t poll = {.nr_ports = 1, .timeout = 1};

        ports[0] = bad[i];
        set_xen_guest_handle(poll.ports, ports);
        CHECK(hypercall(sched_op, SCHEDOP_poll, &poll) <= 0);
    }
    for (unsigned int i = 0; i < 1000; i++)
        CHECK(hypercall(sched_op, SCHEDOP_yield, NULL) == 0);
    for (unsigned int id = 1; id < 10; id++) {
        sched_watchdog_t watchdog = {.id = id + 100, .timeout = 1};

        REFUSED(hypercall(sched_op, SCHEDOP_watchdog, &watchdog));
    }
    for (unsigned int command = 8; command < 64; command++)
        EXPECT(-XEN_ENOSYS, hypercall(sched_op, command, ports));
    EXPECT(0, event_op(EVTCHNOP_bind_ipi, &ipi));
    send.port = ipi.port;
    shared_info->evtchn_mask[0] = 0;
    for (unsigned int i = 0; i < 100; i++) {
        mask_events();
        EXPECT(0, event_op(EVTCHNOP_send, &send));
        EXPECT(0, hypercall(sched_op, SCHEDOP_block, NULL));
    }
    EXPECT(100, event_counts[ipi.port]);
}
