/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* `int n` of a program: every vector but int3 and into is a general protection fault unless the kernel
 * has given it privilege level 3; 0x80 and 0x82 (the hypercall gate of 32-bit kernels) too. */

#include "scenario.h"

#define PROGRAM(number)                                                                           \
    USER_CODE static void int_##number(void)                                                      \
    {                                                                                             \
        asm volatile("int $" #number);                                                            \
        user_syscall(99);                                                                         \
    }
PROGRAM(0) PROGRAM(1) PROGRAM(2) PROGRAM(8) PROGRAM(13) PROGRAM(14) PROGRAM(32) PROGRAM(128)
PROGRAM(130) PROGRAM(239) PROGRAM(255)

USER_CODE static void int3(void)
{
    asm volatile("int3");
}

void kernel_main(void)
{
    static const struct {
        void (*code)(void);
        unsigned int number;
    } programs[] = {
        {int_0, 0}, {int_1, 1}, {int_2, 2}, {int_8, 8}, {int_13, 13}, {int_14, 14}, {int_32, 32},
        {int_128, 128}, {int_130, 130}, {int_239, 239}, {int_255, 255},
    };
    static trap_info_t table[] = {
        {.vector = 0x80, .flags = 3, .cs = FLAT_KERNEL_CS},
        {.vector = 0x82, .flags = 1, .cs = FLAT_KERNEL_CS},
        {0},
    };

    for (unsigned int i = 0; i < COUNT(programs); i++) {
        EXPECT(TRAP_GENERAL_PROTECTION, run_user(programs[i].code, 0));
        EXPECT(programs[i].number << 3 | 2, last_trap.error);
        EXPECT((unsigned long)programs[i].code, last_trap.rip & ~15ul);
    }
    EXPECT(TRAP_INT3, run_user(int3, 0));
    table[0].address = table[1].address = (unsigned long)other_entry;
    EXPECT(0, hypercall(set_trap_table, table));
    EXPECT(TRAP_OTHER, run_user(int_128, 0));
    EXPECT(TRAP_GENERAL_PROTECTION, run_user(int_130, 0)); /* level 1: the kernel's */
    EXPECT(TRAP_OTHER, TRY(asm volatile("int $0x82")));
}
