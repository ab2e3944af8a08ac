/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Privileged instructions of a program: each is a general protection fault (or, for those that this
 * processor does not have, an invalid opcode), which its kernel sees; none is emulated for it. */

#include "scenario.h"

#define PROGRAM(name, code)                                                                       \
    USER_CODE static void name(void)                                                              \
    {                                                                                             \
        asm volatile(code);                                                                       \
        user_syscall(99);                                                                         \
    }
PROGRAM(do_cli, "cli")
PROGRAM(do_sti, "sti")
PROGRAM(do_hlt, "hlt")
PROGRAM(do_read_cr0, "mov %cr0, %rax")
PROGRAM(do_read_cr3, "mov %cr3, %rax")
PROGRAM(do_write_cr3, "mov %rax, %cr3")
PROGRAM(do_write_cr4, "mov %rax, %cr4")
PROGRAM(do_read_dr7, "mov %dr7, %rax")
PROGRAM(do_write_dr0, "mov %rax, %dr0")
PROGRAM(do_clts, "clts")
PROGRAM(do_rdmsr, "mov $0xc0000080, %ecx; rdmsr")
PROGRAM(do_wrmsr, "mov $0xc0000080, %ecx; wrmsr")
PROGRAM(do_lgdt, "lgdt (%rsp)")
PROGRAM(do_lidt, "lidt (%rsp)")
PROGRAM(do_lldt, "lldt %ax")
PROGRAM(do_ltr, "ltr %ax")
PROGRAM(do_lmsw, "lmsw %ax")
PROGRAM(do_invlpg, "invlpg (%rsp)")
PROGRAM(do_invd, "invd")
PROGRAM(do_wbinvd, "wbinvd")
PROGRAM(do_swapgs, "swapgs")
PROGRAM(do_sysret, "mov $0, %ecx; sysretq")
PROGRAM(do_in, "in $0x60, %al")
PROGRAM(do_out, "mov $0x80, %dx; out %al, %dx")
PROGRAM(do_ins, "mov $0x60, %dx; mov %rsp, %rdi; insb")
PROGRAM(do_outs, "mov $0x60, %dx; mov %rsp, %rsi; outsb")

void kernel_main(void)
{
    static void (*const programs[])(void) = {
        do_cli, do_sti, do_hlt, do_read_cr0, do_read_cr3, do_write_cr3, do_write_cr4, do_read_dr7,
        do_write_dr0, do_clts, do_rdmsr, do_wrmsr, do_lgdt, do_lidt, do_lldt, do_ltr, do_lmsw,
        do_invlpg, do_invd, do_wbinvd, do_swapgs, do_sysret, do_in, do_out, do_ins, do_outs,
    };

    for (unsigned int i = 0; i < COUNT(programs); i++) {
        int vector = run_user(programs[i], 0);

        if (!CHECK(vector == TRAP_GENERAL_PROTECTION || vector == TRAP_INVALID_OPCODE))
            printk("program %u: %d\n", i, vector);
        CHECK((last_trap.cs & 3) == 3);
    }
}
