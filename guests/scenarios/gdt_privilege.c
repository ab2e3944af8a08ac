/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Code and data segments of privilege levels 0 to 2 in a GDT: Xen raises them to 3 when it takes the
 * page, and in update_descriptor. A selector loaded afterwards gives no privilege. */

#include "scenario.h"

#define CODE64 0x00af9a000000ffffull
#define CODE32 0x00cf9a000000ffffull
#define DATA 0x00cf92000000ffffull
#define DPL(level) ((unsigned long)(level) << 45)
#define DPL_MASK DPL(3)

static void load_cs(unsigned long selector)
{
    asm volatile("push %0; lea 1f(%%rip), %%rax; push %%rax; lretq; 1:"
                 :
                 : "r"(selector)
                 : "rax", "memory");
}

void kernel_main(void)
{
    unsigned long *gdt = alloc_page(), mfn = virt_to_mfn(gdt), address = virt_to_maddr(gdt);
    unsigned long unused;

    for (unsigned int level = 0; level < 4; level++) {
        gdt[1 + level] = CODE64 | DPL(level);
        gdt[5 + level] = DATA | DPL(level);
        gdt[9 + level] = CODE32 | DPL(level);
    }
    make_read_only(gdt);
    EXPECT(0, hypercall(set_gdt, &mfn, 512));
    for (unsigned int i = 1; i < 13; i++)
        EXPECT(DPL_MASK, gdt[i] & DPL_MASK);
    EXPECT(0, hypercall(update_descriptor, address + 20 * 8, CODE64));
    EXPECT(0, hypercall(update_descriptor, address + 21 * 8, DATA));
    EXPECT(DPL_MASK, gdt[20] & DPL_MASK);
    EXPECT(DPL_MASK, gdt[21] & DPL_MASK);
    EXPECT(NO_TRAP, TRY(load_cs(20 * 8 | 3)));
    EXPECT(TRAP_GENERAL_PROTECTION, TRY(asm volatile("mov %%cr8, %0" : "=r"(unused))));
    EXPECT(TRAP_GENERAL_PROTECTION, TRY(load_cs(20 * 8)));
    EXPECT(TRAP_GENERAL_PROTECTION, TRY(load_cs(20 * 8 | 1)));
    EXPECT(NO_TRAP, TRY(load_cs(FLAT_KERNEL_CS)));
    EXPECT(0, hypercall(set_gdt, NULL, 0));
}
