/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Timers at the ends of all ranges: deadlines that are over, negative or endless, periods of nothing,
 * of another vCPU. The kernel keeps running, and a sane timer rings afterwards. */

#include "scenario.h"

void kernel_main(void)
{
    static const unsigned long times[] = {
        0, 1, 2, 1ul << 31, 1ul << 50, 1ul << 62, (1ul << 63) - 1, 1ul << 63, ~0ul, ~0ul - 1,
    };
    evtchn_bind_virq_t virq = {.virq = VIRQ_TIMER, .vcpu = 0};
    unsigned int rung;

    EXPECT(0, event_op(EVTCHNOP_bind_virq, &virq));
    shared_info->evtchn_mask[0] = 0;
    unmask_events();
    for (unsigned int i = 0; i < COUNT(times); i++) {
        vcpu_set_singleshot_timer_t single = {.timeout_abs_ns = times[i]};
        vcpu_set_periodic_timer_t periodic = {.period_ns = times[i]};
        sched_poll_t poll = {.nr_ports = 0, .timeout = times[i] < 1000 ? times[i] + 1 : 1};

        CHECK(hypercall(vcpu_op, VCPUOP_set_singleshot_timer, 0, &single) <= 0);
        single.flags = VCPU_SSHOTTMR_future;
        CHECK(hypercall(vcpu_op, VCPUOP_set_singleshot_timer, 0, &single) <= 0);
        single.flags = ~0u;
        CHECK(hypercall(vcpu_op, VCPUOP_set_singleshot_timer, 0, &single) <= 0);
        CHECK(hypercall(vcpu_op, VCPUOP_set_periodic_timer, 0, &periodic) <= 0);
        CHECK(hypercall(set_timer_op, times[i]) == 0);
        CHECK(hypercall(sched_op, SCHEDOP_poll, &poll) == 0);
    }
    EXPECT(0, hypercall(vcpu_op, VCPUOP_stop_periodic_timer, 0, NULL));
    EXPECT(0, hypercall(vcpu_op, VCPUOP_stop_singleshot_timer, 0, NULL));
    hypercall(set_timer_op, 0);
    hypercall(xen_version, XENVER_version, NULL);
    rung = event_counts[virq.port];
    EXPECT(0, hypercall(set_timer_op, system_time() + 2000000));
    while (event_counts[virq.port] == rung)
        hypercall(sched_op, SCHEDOP_block, NULL);
    EXPECT(rung + 1, event_counts[virq.port]);
}
