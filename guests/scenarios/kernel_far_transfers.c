/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* A kernel may load its own selectors, of level 3, into cs and ss: by mov, and by far returns, jumps
 * and calls of each size. Null and those of Xen are refused. */

#include "scenario.h"

static unsigned int stack_segment(void)
{
    unsigned int selector;

    asm volatile("mov %%ss, %0" : "=r"(selector));
    return selector;
}

static void load_ss(unsigned int selector)
{
    asm volatile("mov %0, %%ss" : : "r"(selector));
}

static void far_return(unsigned long selector)
{
    asm volatile("sub $32, %%rsp; push %0; lea 1f(%%rip), %%rax; push %%rax; lretq $32; 1:"
                 :
                 : "r"(selector)
                 : "rax", "memory");
}

struct far_pointer {
    unsigned long offset;
    unsigned short selector;
} __attribute__((packed));

static void far_jump(unsigned short selector)
{
    struct far_pointer pointer = {.selector = selector};

    asm volatile("lea 1f(%%rip), %%rax; mov %%rax, (%0); rex.w ljmp *(%0); ud2; 1:"
                 :
                 : "r"(&pointer)
                 : "rax", "memory");
}

static unsigned long far_call(unsigned short selector)
{
    struct far_pointer pointer = {.selector = selector};
    unsigned long frame;

    asm volatile("lea 1f(%%rip), %%rax; mov %%rax, (%1); rex.w lcall *(%1); jmp 2f;"
                 "1: mov 8(%%rsp), %0; lretq; 2:"
                 : "=&r"(frame)
                 : "r"(&pointer)
                 : "rax", "memory");
    return frame;
}

void kernel_main(void)
{
    unsigned long cr8;

    load_ss(FLAT_KERNEL_SS);
    EXPECT(FLAT_KERNEL_SS, stack_segment());
    for (unsigned int selector = 0; selector < 4; selector++) {
        EXPECT(TRAP_GENERAL_PROTECTION, TRY(load_ss(selector)));
        EXPECT(0, last_trap.error);
    }
    EXPECT(TRAP_GENERAL_PROTECTION, TRY(load_ss(FLAT_KERNEL_SS & ~3)));
    EXPECT(FLAT_KERNEL_SS & ~3, last_trap.error);
    EXPECT(TRAP_GENERAL_PROTECTION, TRY(load_ss(FLAT_KERNEL_CS)));
    EXPECT(TRAP_GENERAL_PROTECTION, TRY(load_ss(0xe010)));
    EXPECT(FLAT_KERNEL_SS, stack_segment());

    far_return(FLAT_KERNEL_CS);
    far_jump(FLAT_KERNEL_CS);
    far_jump(FLAT_KERNEL_CS & ~3);
    EXPECT(FLAT_KERNEL_CS, far_call(FLAT_KERNEL_CS) & 0xffff);
    EXPECT(TRAP_GENERAL_PROTECTION, TRY(far_jump(0)));
    EXPECT(TRAP_GENERAL_PROTECTION, TRY(far_jump(0xe008)));
    EXPECT(0xe008, last_trap.error);
    EXPECT(TRAP_GENERAL_PROTECTION, TRY(far_call(FLAT_KERNEL_SS)));
    EXPECT(TRAP_GENERAL_PROTECTION, TRY(far_return(0)));

    /* It is still a kernel. */
    EXPECT(TRAP_GENERAL_PROTECTION, TRY(asm volatile("mov %%cr8, %0" : "=r"(cr8))));
    EXPECT(NO_TRAP, try_write(&cr8, 1));
}
