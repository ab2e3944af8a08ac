/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Every selector of Xen's part of the GDT, and odd ones, into each segment register, by the kernel and
 * by far jumps and returns: what loads must not be more than the flat segments of level 3. */

#include "scenario.h"

static void far_return(unsigned long selector)
{
    asm volatile("push %0; lea 1f(%%rip), %%rax; push %%rax; lretq; 1:"
                 :
                 : "r"(selector)
                 : "rax", "memory");
}

void kernel_main(void)
{
    unsigned long unused;

    for (unsigned int selector = 0xe000; selector < 0xe100; selector++) {
        TRY(asm volatile("mov %0, %%ds" : : "r"(selector)));
        TRY(asm volatile("mov %0, %%es" : : "r"(selector)));
        TRY(asm volatile("mov %0, %%fs" : : "r"(selector)));
        TRY(asm volatile("mov %0, %%gs" : : "r"(selector)));
        if (selector != (FLAT_KERNEL_CS | 3) && (selector & ~3u) != (FLAT_RING3_CS32 & ~3u))
            CHECK(TRY(far_return(selector)) >= 0);
        EXPECT(TRAP_GENERAL_PROTECTION, TRY(asm volatile("mov %%cr8, %0" : "=r"(unused))));
    }
    for (unsigned int selector = 4; selector < 0x10000; selector += 1021) {
        CHECK(TRY(asm volatile("mov %0, %%es" : : "r"(selector))) != TRAP_PAGE_FAULT);
        CHECK(TRY(far_return(selector)) >= 0);
    }
    asm volatile("mov %0, %%ds; mov %0, %%es" : : "r"(0));
    EXPECT(NO_TRAP, TRY(far_return(FLAT_KERNEL_CS)));
}
