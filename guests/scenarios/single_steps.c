/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* The trap flag, set by the kernel for itself and for a program, over system calls, hypercalls and
 * instructions that Xen emulates: each step is told to the kernel, and a handler's own code does not
 * step. */

#include "scenario.h"

static volatile unsigned int steps;

static bool on_trap(struct trap_frame *frame)
{
    if (frame->vector != TRAP_DEBUG)
        return false;
    CHECK(!(frame->rflags & 1ul << 17));
    steps++;
    return true;
}

USER_CODE static void user(void)
{
    asm volatile("nop; nop; nop");
    user_syscall(7);
}

static void step(void)
{
    asm volatile("pushfq; orl $0x100, (%%rsp); popfq; nop; cli; sti; mov %%cr0, %%rax; nop;"
                 "mov $17, %%eax; xor %%edi, %%edi; syscall;"
                 "pushfq; andl $~0x100, (%%rsp); popfq"
                 :
                 :
                 : "rax", "rcx", "rdi", "rsi", "rdx", "r8", "r10", "r11", "memory", "cc");
}

void kernel_main(void)
{
    struct trap_frame frame = {
        .rip = (unsigned long)user, .cs = FLAT_USER_CS, .rflags = 0x302, .ss = FLAT_USER_SS,
        .rsp = (unsigned long)user_stack + sizeof(user_stack) - 16,
    };
    unsigned long flags;

    physdev_set_iopl_t iopl = {.iopl = 1}; /* so that Xen lets the kernel have cli and sti */

    EXPECT(0, hypercall(physdev_op, PHYSDEVOP_set_iopl, &iopl));
    trap_hook = on_trap;
    step();
    CHECK(steps >= 6);
    asm volatile("pushfq; pop %0" : "=r"(flags));
    EXPECT(0, flags & 0x100);
    EXPECT(TRAP_SYSCALL, run_user(user, 0));
    steps = 0;
    EXPECT(TRAP_SYSCALL, TRY(resume(&frame)));
    CHECK(steps >= 3);
    asm volatile("pushfq; pop %0" : "=r"(flags));
    EXPECT(0, flags & 0x100);
}
