/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: crash "stack"
// variants: UNMAPPED_STACK, XEN_STACK, NON_CANONICAL_STACK
/* stack_switch takes any address; the first trap from user mode finds out. */

#include "scenario.h"

USER_CODE static void user(void)
{
    user_syscall(1);
}

static bool forge(struct trap_frame *frame)
{
    static const unsigned long stack =
#if defined(UNMAPPED_STACK)
        UNMAPPED;
#elif defined(XEN_STACK)
        XEN_PRIVATE;
#else
        NON_CANONICAL;
#endif

    if (frame->vector != TRAP_SYSCALL)
        return false;
    CHECK(hypercall(stack_switch, FLAT_KERNEL_SS, stack) == 0);
    frame->rip = (unsigned long)user;
    printk("now\n");
    return true;
}

void kernel_main(void)
{
    trap_hook = forge;
    run_user(user, 0);
    fail("still here");
}
