/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* The guest writes nonsense over all words that it shares with Xen: pending, mask, selectors, upcall
 * flags, and the clock. Xen goes by its own state; events that are sent still come. */

#include "scenario.h"

static void garbage(void)
{
    uint8_t *page = (uint8_t *)shared_info;

    for (unsigned int i = 0; i < PAGE_SIZE; i += 8)
        *(volatile unsigned long *)(page + i) = random_number();
}

void kernel_main(void)
{
    evtchn_bind_ipi_t ipi = {.vcpu = 0};
    evtchn_send_t send;

    EXPECT(0, event_op(EVTCHNOP_bind_ipi, &ipi));
    send.port = ipi.port;
    for (unsigned int round = 0; round < 50; round++) {
        evtchn_status_t status = {.dom = DOMID_SELF, .port = ipi.port};
        evtchn_unmask_t unmask = {.port = (evtchn_port_t)(random_number() % 4096)};

        garbage();
        CHECK(event_op(EVTCHNOP_send, &send) == 0);
        event_op(EVTCHNOP_unmask, &unmask);
        CHECK(event_op(EVTCHNOP_status, &status) == 0 && status.status == EVTCHNSTAT_ipi);
    }
    mask_events();
    memset((void *)shared_info->evtchn_pending, 0, sizeof(shared_info->evtchn_pending));
    memset((void *)shared_info->evtchn_mask, 0, sizeof(shared_info->evtchn_mask));
    vcpu_info(0)->evtchn_pending_sel = 0;
    vcpu_info(0)->evtchn_upcall_pending = 0;
    event_counts[ipi.port] = 0;
    EXPECT(0, event_op(EVTCHNOP_send, &send));
    unmask_events();
    EXPECT(1, event_counts[ipi.port]);
}
