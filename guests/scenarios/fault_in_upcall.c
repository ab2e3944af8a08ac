/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* A fault within the event callback, and an event within the handler of a fault. Upcalls are masked
 * in the callback, and the frame's flag decides what is masked after a return. */

#include "scenario.h"

static volatile int faults, upcalls;
static evtchn_send_t send;

static void on_event(evtchn_port_t port)
{
    upcalls++;
    CHECK(vcpu_info(0)->evtchn_upcall_mask == 1);
    asm volatile("ud2");
}

static bool on_trap(struct trap_frame *frame)
{
    if (frame->vector != TRAP_INVALID_OPCODE)
        return false;
    faults++;
    frame->rip += 2;
    if (upcalls < 3)
        EXPECT(0, event_op(EVTCHNOP_send, &send));
    return true;
}

void kernel_main(void)
{
    evtchn_bind_ipi_t ipi = {.vcpu = 0};

    EXPECT(0, event_op(EVTCHNOP_bind_ipi, &ipi));
    send.port = ipi.port;
    event_hook = on_event;
    trap_hook = on_trap;
    shared_info->evtchn_mask[0] = 0;
    unmask_events();
    asm volatile("ud2");
    EXPECT(3, upcalls);
    EXPECT(4, faults);
    EXPECT(0, vcpu_info(0)->evtchn_upcall_mask);
}
