/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* All ports taken: -ENOSPC, for every way of binding; after one is closed there is one again. */

#include "scenario.h"

void kernel_main(void)
{
    evtchn_alloc_unbound_t unbound = {.dom = DOMID_SELF, .remote_dom = 0};
    evtchn_bind_ipi_t ipi = {.vcpu = 0};
    evtchn_bind_virq_t virq = {.virq = VIRQ_TIMER, .vcpu = 0};
    evtchn_bind_interdomain_t inter = {.remote_dom = DOMID_SELF};
    evtchn_close_t close = {.port = 1};
    evtchn_reset_t reset = {.dom = DOMID_SELF};
    unsigned int last = 0;
    long result;

    while ((result = event_op(EVTCHNOP_alloc_unbound, &unbound)) == 0)
        if (last++ > 5000)
            fail("no end of ports");
    EXPECT(-XEN_ENOSPC, result);
    CHECK(unbound.port > 1000);
    EXPECT(-XEN_ENOSPC, event_op(EVTCHNOP_bind_ipi, &ipi));
    EXPECT(-XEN_ENOSPC, event_op(EVTCHNOP_bind_virq, &virq));
    inter.remote_port = unbound.port;
    REFUSED(event_op(EVTCHNOP_bind_interdomain, &inter));
    close.port = unbound.port;
    EXPECT(0, event_op(EVTCHNOP_close, &close));
    EXPECT(0, event_op(EVTCHNOP_bind_ipi, &ipi));
    EXPECT(unbound.port, ipi.port);
    EXPECT(-XEN_ENOSPC, event_op(EVTCHNOP_alloc_unbound, &unbound));
    EXPECT(0, event_op(EVTCHNOP_reset, &reset));
    EXPECT(0, event_op(EVTCHNOP_bind_virq, &virq));
}
