/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* FIFO event channels with control block and event words full of nonsense: queues that point at ports
 * which do not exist, at themselves, in a circle. Xen must neither hang nor write elsewhere. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long *block = alloc_page(), *words = alloc_page();
    evtchn_init_control_t control = {.control_gfn = virt_to_mfn(block), .offset = 0, .vcpu = 0};
    evtchn_expand_array_t array = {.array_gfn = virt_to_mfn(words)};
    evtchn_send_t send[8];

    EXPECT(0, event_op(EVTCHNOP_init_control, &control));
    EXPECT(0, event_op(EVTCHNOP_expand_array, &array));
    for (unsigned int i = 0; i < COUNT(send); i++) {
        evtchn_bind_ipi_t ipi = {.vcpu = 0};
        evtchn_set_priority_t priority;

        EXPECT(0, event_op(EVTCHNOP_bind_ipi, &ipi));
        send[i].port = priority.port = ipi.port;
        priority.priority = i * 2;
        EXPECT(0, event_op(EVTCHNOP_set_priority, &priority));
        priority.priority = 16 + i;
        EXPECT(-XEN_EINVAL, event_op(EVTCHNOP_set_priority, &priority));
    }
    for (unsigned int round = 0; round < 300; round++) {
        for (unsigned int i = 0; i < 16; i++)
            block[i] = round % 3 ? random_number() : random_number() & 0x0000000f0000000f;
        for (unsigned int i = 0; i < 512; i++)
            words[i] = random_number() & (round & 1 ? ~0ul : 0xe000000fe000000ful);
        for (unsigned int i = 0; i < COUNT(send); i++) {
            evtchn_unmask_t unmask = {.port = send[i].port};

            event_op(EVTCHNOP_send, &send[i]);
            event_op(EVTCHNOP_unmask, &unmask);
        }
    }
    CHECK(hypercall(xen_version, XENVER_version, NULL) > 0);
}
