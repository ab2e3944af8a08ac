/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Every argument of event_channel_op is copied from the guest, with faults caught: -EFAULT, and no
 * port is taken. */

#include "scenario.h"

void kernel_main(void)
{
    static const unsigned int commands[] = {
        EVTCHNOP_alloc_unbound, EVTCHNOP_bind_interdomain, EVTCHNOP_bind_virq, EVTCHNOP_bind_ipi,
        EVTCHNOP_send, EVTCHNOP_close, EVTCHNOP_status, EVTCHNOP_unmask, EVTCHNOP_bind_vcpu,
        EVTCHNOP_reset, EVTCHNOP_init_control, EVTCHNOP_expand_array, EVTCHNOP_set_priority,
    };
    evtchn_bind_ipi_t first = {.vcpu = 0}, second = {.vcpu = 0};

    EXPECT(0, event_op(EVTCHNOP_bind_ipi, &first));
    for (unsigned int i = 0; i < COUNT(commands); i++)
        EXPECT_BAD_POINTERS(-XEN_EFAULT, event_op(commands[i], bad));
    EXPECT(0, event_op(EVTCHNOP_bind_ipi, &second));
    EXPECT(first.port + 1, second.port);
}
