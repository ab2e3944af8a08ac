/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Channels of other domains, and to those that do not exist; one's own port twice, or to oneself in a
 * circle; physical interrupts. */

#include "scenario.h"

void kernel_main(void)
{
    evtchn_alloc_unbound_t unbound = {.dom = DOMID_SELF, .remote_dom = DOMID_SELF};
    evtchn_bind_interdomain_t inter = {.remote_dom = DOMID_SELF};
    evtchn_send_t send;

    for (unsigned int domid = 2; domid < 0x8000; domid = domid * 2 + 1) {
        evtchn_alloc_unbound_t other = {.dom = (domid_t)domid, .remote_dom = DOMID_SELF};
        evtchn_bind_interdomain_t bind = {.remote_dom = (domid_t)domid, .remote_port = 1};
        evtchn_status_t status = {.dom = (domid_t)domid, .port = 1};
        evtchn_reset_t reset = {.dom = (domid_t)domid};

        REFUSED(event_op(EVTCHNOP_alloc_unbound, &other));
        REFUSED(event_op(EVTCHNOP_bind_interdomain, &bind));
        REFUSED(event_op(EVTCHNOP_status, &status));
        REFUSED(event_op(EVTCHNOP_reset, &reset));
    }
    for (unsigned int pirq = 0; pirq < 300; pirq += 7) {
        evtchn_bind_pirq_t bind = {.pirq = pirq, .flags = pirq & 1};

        REFUSED(event_op(EVTCHNOP_bind_pirq, &bind));
    }
    EXPECT(0, event_op(EVTCHNOP_alloc_unbound, &unbound));
    inter.remote_port = unbound.port;
    EXPECT(0, event_op(EVTCHNOP_bind_interdomain, &inter));
    REFUSED(event_op(EVTCHNOP_bind_interdomain, &inter)); /* it is bound by now */
    inter.remote_port = inter.local_port;
    REFUSED(event_op(EVTCHNOP_bind_interdomain, &inter));
    send.port = inter.local_port;
    shared_info->evtchn_mask[0] = 0;
    unmask_events();
    EXPECT(0, event_op(EVTCHNOP_send, &send));
    EXPECT(1, event_counts[unbound.port]);
}
