/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
// vcpus: 2
/* VIRQs: numbers beyond the last, global ones on other vCPUs, vCPUs that do not exist, twice. */

#include "scenario.h"

void kernel_main(void)
{
    static const unsigned int vcpus[] = {2, 3, 64, 8191, 8192, 0x80000000, ~0u};
    evtchn_bind_virq_t first = {.virq = VIRQ_TIMER, .vcpu = 0}, second = first;

    for (unsigned int i = 0; i < COUNT(vcpus); i++) {
        evtchn_bind_virq_t virq = {.virq = VIRQ_TIMER, .vcpu = vcpus[i]};
        evtchn_bind_ipi_t ipi = {.vcpu = vcpus[i]};

        REFUSED(event_op(EVTCHNOP_bind_virq, &virq));
        REFUSED(event_op(EVTCHNOP_bind_ipi, &ipi));
    }
    for (unsigned int number = 24; number < 200; number++) {
        evtchn_bind_virq_t virq = {.virq = number, .vcpu = 0};

        EXPECT(-XEN_EINVAL, event_op(EVTCHNOP_bind_virq, &virq));
        virq.virq = number << 24;
        EXPECT(-XEN_EINVAL, event_op(EVTCHNOP_bind_virq, &virq));
    }
    second.virq = VIRQ_CONSOLE;
    second.vcpu = 1;
    REFUSED(event_op(EVTCHNOP_bind_virq, &second));
    EXPECT(0, event_op(EVTCHNOP_bind_virq, &first));
    second = first;
    EXPECT(-XEN_EEXIST, event_op(EVTCHNOP_bind_virq, &second));
    second.vcpu = 1;
    EXPECT(0, event_op(EVTCHNOP_bind_virq, &second));
}
