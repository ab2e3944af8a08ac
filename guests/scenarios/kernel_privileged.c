/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Privileged instructions of the kernel that Xen does not emulate: it gets the fault. Those that it
 * emulates must check what they load. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long value = 0;

#define FAULTS(...)                                                                               \
    do {                                                                                          \
        int vector_ = TRY(asm volatile(__VA_ARGS__));                                             \
        if (!CHECK(vector_ == TRAP_GENERAL_PROTECTION || vector_ == TRAP_INVALID_OPCODE))         \
            printk("trap %d: %s\n", vector_, #__VA_ARGS__);                                       \
    } while (0)

    FAULTS("lgdt %0" : : "m"(value));
    FAULTS("lidt %0" : : "m"(value));
    FAULTS("lldt %w0" : : "r"(0));
    FAULTS("ltr %w0" : : "r"(0xe040));
    FAULTS("invd");
    FAULTS("lmsw %w0" : : "r"(0));
    FAULTS("mov %0, %%cr0" : : "r"(0ul));
    FAULTS("mov %0, %%cr0" : : "r"(0x80000000ul));
    FAULTS("mov %0, %%cr0" : : "r"(~0ul));
    FAULTS("mov %%cr8, %0" : "=r"(value));
    FAULTS("mov %0, %%cr8" : : "r"(0ul));
    FAULTS("mov %0, %%cr3" : : "r"(0ul));
    FAULTS("mov %0, %%cr3" : : "r"(~0ul));
    FAULTS("swapgs");
    FAULTS("rsm");
    FAULTS("vmcall");
    FAULTS("vmrun %%rax" : : "a"(0));
    FAULTS("sysexit" : : "c"(0), "d"(0));
    FAULTS("in $0x60, %%al" : : : "rax");
    FAULTS("out %%al, $0x80" : : "a"(0));
    FAULTS("in %%dx, %%eax" : : "d"(0xcf8) : "rax");
    FAULTS("rep insb" : : "d"(0x60), "D"(&value), "c"(4) : "memory");
    FAULTS("rep outsl" : : "d"(0x60), "S"(&value), "c"(1) : "memory");
    EXPECT(NO_TRAP, try_read(start_info));
}
