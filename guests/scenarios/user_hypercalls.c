/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* A program's `syscall` is a system call of its kernel, whatever is in rax: not one of them reaches
 * Xen as a hypercall. */

#include "scenario.h"

USER_CODE static void user(void)
{
    unsigned long number;

    asm volatile("" : "=D"(number));
    user_syscall(number);
}

void kernel_main(void)
{
    unsigned long l4 = virt_to_mfn((void *)start_info->pt_base);

    for (unsigned long number = 0; number < 64; number++) {
        EXPECT(TRAP_SYSCALL, run_user(user, number));
        EXPECT(number, last_trap.rax);
        EXPECT(3, last_trap.cs & 3);
    }
    EXPECT(TRAP_SYSCALL, run_user(user, ~0ul));
    EXPECT(0, mmuext(MMUEXT_NEW_BASEPTR, l4, 0));
}
