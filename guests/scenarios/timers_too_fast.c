/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Timers as fast as they get, all at once, with a handler that sets the next one in the past: the
 * kernel still makes progress. */

#include "scenario.h"

static volatile unsigned int rings;

static void on_timer(evtchn_port_t port)
{
    if (++rings < 3000)
        hypercall(set_timer_op, 1);
}

void kernel_main(void)
{
    evtchn_bind_virq_t virq = {.virq = VIRQ_TIMER, .vcpu = 0};
    vcpu_set_periodic_timer_t periodic = {.period_ns = 1000000};

    EXPECT(0, event_op(EVTCHNOP_bind_virq, &virq));
    event_hook = on_timer;
    shared_info->evtchn_mask[0] = 0;
    unmask_events();
    EXPECT(0, hypercall(vcpu_op, VCPUOP_set_periodic_timer, 0, &periodic));
    EXPECT(0, hypercall(set_timer_op, 1));
    for (unsigned int i = 0; i < 200000 && rings < 3000; i++)
        hypercall(xen_version, XENVER_version, NULL);
    CHECK(rings >= 3000);
}
