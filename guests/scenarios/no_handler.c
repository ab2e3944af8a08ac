/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: crash "no handler"
// variants: INVALID_OPCODE, PAGE_FAULT, DIVIDE, GENERAL_PROTECTION, BREAKPOINT
/* An exception for which the kernel has registered nothing: Xen crashes the domain. */

#include "scenario.h"

void kernel_main(void)
{
    CHECK(hypercall(set_trap_table, NULL) == 0);
    printk("now\n");
#if defined(INVALID_OPCODE)
    asm volatile("ud2");
#elif defined(PAGE_FAULT)
    *(volatile char *)UNMAPPED = 0;
#elif defined(DIVIDE)
    asm volatile("xor %%ecx, %%ecx; div %%ecx" : : : "rax", "rcx", "rdx");
#elif defined(GENERAL_PROTECTION)
    asm volatile("lgdt (%0)" : : "r"(boot_stack));
#else
    asm volatile("int3");
#endif
    fail("still here");
}
