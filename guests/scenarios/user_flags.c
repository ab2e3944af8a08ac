/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* A program sets every flag that popf lets it, and tries iretq, lretq and sysretq to privileged
 * selectors. The kernel gets control with its own flags, and a program's flags in the frame have no
 * more privilege than it may have. */

#include "scenario.h"

USER_CODE static void set_flags(void)
{
    unsigned long flags;

    asm volatile("" : "=D"(flags));
    asm volatile("push %0; popfq" : : "r"(flags) : "cc", "memory");
    user_syscall(7);
}

#define PROGRAM(name, code)                                                                       \
    USER_CODE static void name(void)                                                              \
    {                                                                                             \
        asm volatile(code);                                                                       \
        user_syscall(99);                                                                         \
    }
PROGRAM(do_iretq, "push $0xe02b; push %rsp; push $0x202; push $0xe030; push $0x1000; iretq")
PROGRAM(do_iretq_1, "push $0xe02b; push %rsp; push $0x202; push $0xe031; push $0x1000; iretq")
PROGRAM(do_lretq, "push $0xe008; push $0x1000; lretq")
PROGRAM(do_ljmp, "push $0xe008; push $0x1000; ljmp *(%rsp)")

void kernel_main(void)
{
    static const unsigned int bits[] = {0, 2, 6, 7, 9, 10, 11, 12, 13, 14, 17, 18, 19, 20, 21};
    void (*const programs[])(void) = {do_iretq, do_iretq_1, do_lretq, do_ljmp};

    for (unsigned int i = 0; i < COUNT(bits); i++) {
        unsigned long flags;

        EXPECT(TRAP_SYSCALL, run_user(set_flags, 0x202 | 1ul << bits[i]));
        asm volatile("pushfq; pop %0" : "=r"(flags));
        EXPECT(0, flags & (1ul << 14 | 1ul << 17 | 1ul << 18 | 1ul << 8));
        EXPECT(0, last_trap.rflags & (3ul << 12 | 1ul << 17));
        CHECK(last_trap.rflags & 0x200);
    }
    for (unsigned int i = 0; i < COUNT(programs); i++) {
        int vector = run_user(programs[i], 0);

        CHECK(vector == TRAP_GENERAL_PROTECTION || vector == TRAP_PAGE_FAULT ||
              vector == TRAP_NO_SEGMENT);
        EXPECT(3, last_trap.cs & 3);
    }
}
