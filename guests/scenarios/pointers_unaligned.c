/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Xen asks for no alignment: structures at odd addresses and over the end of a page are good. */

#include "scenario.h"

void kernel_main(void)
{
    uint8_t *pages = alloc_page();

    alloc_page();
    for (unsigned int offset = PAGE_SIZE - 40; offset < PAGE_SIZE + 2; offset++) {
        evtchn_bind_ipi_t *ipi = (void *)(pages + offset);
        vcpu_runstate_info_t *state = (void *)(pages + offset);
        multicall_entry_t *call = (void *)(pages + offset);
        mmuext_op_t *operation = (void *)(pages + offset);
        evtchn_port_t port;

        memset(pages, 0, 2 * PAGE_SIZE);
        EXPECT(0, event_op(EVTCHNOP_bind_ipi, ipi));
        memcpy(&port, &ipi->port, sizeof(port));
        CHECK(port > 0);
        EXPECT(0, hypercall(vcpu_op, VCPUOP_get_runstate_info, 0, state));
        CHECK(state->state == RUNSTATE_running);
        memset(pages, 0, 2 * PAGE_SIZE);
        call->op = __HYPERVISOR_xen_version;
        EXPECT(0, hypercall(multicall, call, 1));
        EXPECT(4, call->result >> 16);
        memset(pages, 0, 2 * PAGE_SIZE);
        operation->cmd = MMUEXT_TLB_FLUSH_LOCAL;
        EXPECT(0, hypercall(mmuext_op, operation, 1, NULL, DOMID_SELF));
    }
}
