/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
// vcpus: 4
/* vCPUs that are stopped in the middle of their work by others, started again, and stopped while they
 * are blocked, poll or have events; IPIs to those that are down. */

#include "scenario.h"

static volatile unsigned long work[4];
static evtchn_port_t ports[4];

#define WORKER(number, statement)                                                                 \
    static void worker_##number(void)                                                             \
    {                                                                                             \
        for (;;) {                                                                                \
            work[number]++;                                                                       \
            statement;                                                                            \
        }                                                                                         \
    }
WORKER(1, asm volatile("" : : : "memory"))
WORKER(2, hypercall(sched_op, SCHEDOP_yield, NULL))
WORKER(3, hypercall(sched_op, SCHEDOP_block, NULL))

void kernel_main(void)
{
    void (*const workers[])(void) = {NULL, worker_1, worker_2, worker_3};

    for (unsigned int vcpu = 1; vcpu < 4; vcpu++) {
        evtchn_bind_ipi_t ipi = {.vcpu = vcpu};

        EXPECT(0, event_op(EVTCHNOP_bind_ipi, &ipi));
        ports[vcpu] = ipi.port;
        EXPECT(0, start_vcpu(vcpu, workers[vcpu]));
    }
    for (unsigned int round = 0; round < 60; round++) {
        unsigned int vcpu = 1 + round % 3;
        evtchn_send_t send = {.port = ports[vcpu]};

        EXPECT(0, event_op(EVTCHNOP_send, &send));
        hypercall(sched_op, SCHEDOP_yield, NULL);
        EXPECT(0, hypercall(vcpu_op, VCPUOP_down, vcpu, NULL));
        EXPECT(0, hypercall(vcpu_op, VCPUOP_is_up, vcpu, NULL));
        EXPECT(0, event_op(EVTCHNOP_send, &send));
        EXPECT(0, hypercall(vcpu_op, VCPUOP_down, vcpu, NULL));
        EXPECT(0, hypercall(vcpu_op, VCPUOP_up, vcpu, NULL));
        EXPECT(0, hypercall(vcpu_op, VCPUOP_up, vcpu, NULL));
    }
    for (unsigned int i = 0; i < 10000 && !(work[1] && work[2] && work[3]); i++)
        hypercall(sched_op, SCHEDOP_yield, NULL);
    CHECK(work[1] && work[2] && work[3]);
}
