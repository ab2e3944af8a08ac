/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Addresses that are not canonical for callbacks: callback_op refuses them, set_callbacks passes them
 * over (it has no error). The old callbacks stay: an event and a system call still come. */

#include "scenario.h"

USER_CODE static void user(void)
{
    user_syscall(7);
}

void kernel_main(void)
{
    static const unsigned long bad[] = {
        NON_CANONICAL, 0x0000800000000000ul, 0xffff7ffffffffffful, 1ul << 62, 1ul << 63,
    };
    evtchn_bind_ipi_t ipi = {.vcpu = 0};
    evtchn_send_t send;

    for (unsigned int i = 0; i < COUNT(bad); i++) {
        for (unsigned int type = 0; type < 16; type++) {
            struct callback_register argument = {.type = (uint16_t)type, .address = bad[i]};

            REFUSED(hypercall(callback_op, CALLBACKOP_register, &argument));
            argument.flags = 0xffff;
            REFUSED(hypercall(callback_op, CALLBACKOP_register, &argument));
        }
        EXPECT(0, hypercall(set_callbacks, bad[i], bad[i], bad[i]));
    }
    for (unsigned int command = 2; command < 8; command++)
        EXPECT(-XEN_ENOSYS, hypercall(callback_op, command, &bad));
    EXPECT(0, event_op(EVTCHNOP_bind_ipi, &ipi));
    send.port = ipi.port;
    shared_info->evtchn_mask[0] = 0;
    unmask_events();
    EXPECT(0, event_op(EVTCHNOP_send, &send));
    EXPECT(1, event_counts[ipi.port]);
    EXPECT(TRAP_SYSCALL, run_user(user, 0));
}
