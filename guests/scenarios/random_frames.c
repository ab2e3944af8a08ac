/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
// variants: SEED=1, SEED=2, SEED=3
/* iret with random frames, into both modes: selectors, flags, addresses. Each ends in a trap that the
 * kernel sees, its stack and its privilege as before. */

#include "scenario.h"

USER_CODE static void user(void)
{
    user_syscall(7);
}

static void stop(evtchn_port_t port)
{
    if (try_armed)
        try_abort(TRAP_EVENT);
}

static unsigned long pick(void)
{
    static const unsigned long values[] = {
        FLAT_KERNEL_CS & ~3, FLAT_USER_CS, FLAT_USER_CS32, FLAT_USER_SS, FLAT_KERNEL_SS & ~3, 0, 3, 4,
        7, 0xe008, 0xe010, 0xe040, 0xefff, 0xf000, 0xfffc, XEN_PRIVATE, NON_CANONICAL, UNMAPPED,
    };

    return random_number() % 5 ? values[random_number() % COUNT(values)] : random_number();
}

static unsigned long pick_address(void)
{
    switch (random_number() % 4) {
    case 0:
        return (unsigned long)user;
    case 1:
        return (unsigned long)kernel_main; /* it would begin anew */
    default:
        return pick();
    }
}

void kernel_main(void)
{
    evtchn_bind_virq_t virq = {.virq = VIRQ_TIMER, .vcpu = 0};
    static volatile unsigned int i, begun;

    if (begun++) {
        /* Reached by one of the frames, in kernel mode with that frame's stack: a way out. */
        asm volatile("ud2");
    }
    random_state += SEED * 0x77777777ul;
    prepare_user();
    EXPECT(TRAP_SYSCALL, run_user(user, 0));
    EXPECT(0, event_op(EVTCHNOP_bind_virq, &virq));
    event_hook = stop;
    memset((void *)shared_info->evtchn_mask, 0, sizeof(shared_info->evtchn_mask));
    for (i = 0; i < 1500; i++) {
        static struct trap_frame frame;
        static unsigned long safe_stack[512] __attribute__((aligned(16)));

        for (unsigned int j = 0; j < sizeof(frame) / 8; j++)
            ((unsigned long *)&frame)[j] = random_number();
        frame.rip = pick_address();
        frame.cs = random_number() % 3 ? random_number() % 2 ? FLAT_USER_CS : FLAT_KERNEL_CS & ~3
                                       : pick();
        /* No trap flag: a kernel that steps through its own handler is busy. */
        frame.rflags = (random_number() % 4 ? 0x202 : random_number()) & ~(1ul << 8);
        frame.ss = random_number() % 3 ? FLAT_USER_SS : pick();
        frame.rsp = (frame.cs & 3) == 3 ? pick_address() : (unsigned long)&safe_stack[500];
        mask_events();
        hypercall(set_timer_op, system_time() + 3000000);
        CHECK(TRY(resume(&frame)) >= 0);
        mask_events();
        hypercall(set_timer_op, 0);
        asm volatile("cld; mov %0, %%ds; mov %0, %%es" : : "r"(0));
    }
    EXPECT(TRAP_SYSCALL, run_user(user, 0));
}
