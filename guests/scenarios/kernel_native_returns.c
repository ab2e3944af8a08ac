/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* iretq, lretq and sysretq executed by the kernel itself, instead of the hypercall: to its own segments
 * they may work, to others they fault, and afterwards the kernel is still a kernel. */

#include "scenario.h"

static void native_iretq(unsigned long cs, unsigned long flags)
{
    asm volatile("mov %%rsp, %%rax; push %2; push %%rax; push %1; push %0; lea 1f(%%rip), %%rax;"
                 "push %%rax; iretq; 1:"
                 :
                 : "r"(cs), "r"(flags), "r"((unsigned long)FLAT_KERNEL_SS)
                 : "rax", "memory");
}

static void sysret(unsigned long target)
{
    asm volatile("sysretq" : : "c"(target), "r"(0) : "r11", "memory");
}

void kernel_main(void)
{
    unsigned long value;

    EXPECT(NO_TRAP, TRY(native_iretq(FLAT_KERNEL_CS | 3, 0x202)));
    EXPECT(0, hypercall(mmuext_op, NULL, 0, NULL, DOMID_SELF));
    EXPECT(TRAP_GENERAL_PROTECTION, TRY(native_iretq(FLAT_KERNEL_CS & ~3, 0x202)));
    EXPECT(TRAP_GENERAL_PROTECTION, TRY(native_iretq(0xe008, 0x202)));
    EXPECT(TRAP_GENERAL_PROTECTION, TRY(native_iretq(0, 0x202)));
    CHECK(TRY(native_iretq(FLAT_KERNEL_CS | 3, 0x3202)) <= TRAP_GENERAL_PROTECTION);
    EXPECT(TRAP_GENERAL_PROTECTION, TRY(asm volatile("mov %%cr8, %0" : "=r"(value))));
    CHECK(TRY(sysret((unsigned long)kernel_main)) >= 0);
    CHECK(TRY(sysret(NON_CANONICAL)) >= 0);
    EXPECT(NO_TRAP, try_write(&value, 1));
    CHECK(hypercall(xen_version, XENVER_version, NULL) > 0);
}
