/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Ports that are out of range, not bound, Xen's, or bound to something else, for each operation that
 * takes a port. */

#include "scenario.h"

void kernel_main(void)
{
    static const unsigned int bad[] = {0, 3000, 4095, 4096, 131071, 131072, 0x7fffffff, ~0u};

    for (unsigned int i = 0; i < COUNT(bad); i++) {
        evtchn_send_t send = {.port = bad[i]};
        evtchn_close_t close = {.port = bad[i]};
        evtchn_unmask_t unmask = {.port = bad[i]};
        evtchn_bind_vcpu_t bind = {.port = bad[i], .vcpu = 0};
        evtchn_set_priority_t priority = {.port = bad[i], .priority = 0};
        evtchn_status_t status = {.dom = DOMID_SELF, .port = bad[i]};
        sched_poll_t poll = {.nr_ports = 1, .timeout = 1};
        evtchn_port_t port = bad[i];

        REFUSED(event_op(EVTCHNOP_send, &send));
        REFUSED(event_op(EVTCHNOP_close, &close));
        REFUSED(event_op(EVTCHNOP_bind_vcpu, &bind));
        REFUSED(event_op(EVTCHNOP_set_priority, &priority));
        if (bad[i] >= 4096) {
            REFUSED(event_op(EVTCHNOP_unmask, &unmask));
            REFUSED(event_op(EVTCHNOP_status, &status));
        }
        set_xen_guest_handle(poll.ports, &port);
        CHECK(hypercall(sched_op, SCHEDOP_poll, &poll) <= 0);
    }
    for (unsigned int command = 15; command < 64; command++) /* 14 is within Xen: reset_cont */
        EXPECT(-XEN_ENOSYS, event_op(command, alloc_page()));
}
