/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* SET_LDT: too many entries, no page's beginning, Xen's addresses, not canonical ones, nothing
 * mapped. What cannot be read, or is a gate, faults when a selector of it is loaded. */

#include "scenario.h"

static void load_ds(unsigned int selector)
{
    asm volatile("mov %0, %%ds" : : "r"(selector));
}

void kernel_main(void)
{
    unsigned long *ldt = alloc_page(), address = (unsigned long)ldt;

    REFUSED(mmuext(MMUEXT_SET_LDT, address, 8193));
    REFUSED(mmuext(MMUEXT_SET_LDT, address, ~0u));
    REFUSED(mmuext(MMUEXT_SET_LDT, address + 8, 4));
    REFUSED(mmuext(MMUEXT_SET_LDT, XEN_PRIVATE, 512));
    REFUSED(mmuext(MMUEXT_SET_LDT, HYPERVISOR_VIRT_START - PAGE_SIZE, 8192));
    REFUSED(mmuext(MMUEXT_SET_LDT, NON_CANONICAL, 512));

    EXPECT(0, mmuext(MMUEXT_SET_LDT, UNMAPPED, 512));
    CHECK(TRY(load_ds(7)) >= 0); /* #GP, or a page fault at the table */
    ldt[0] = 0x00cff3000000ffffull;
    ldt[1] = 0x00cf93000000ffffull; /* privilege level 0: raised */
    ldt[2] = 0x00cfe9000000ffffull; /* a task segment */
    make_read_only(ldt);
    EXPECT(0, mmuext(MMUEXT_SET_LDT, address, 512));
    CHECK(TRY(load_ds(2 * 8 | 7)) >= 0);
    CHECK(TRY(load_ds(300 * 8 | 7)) >= 0);
    EXPECT(0, mmuext(MMUEXT_SET_LDT, 0, 0));
    CHECK(TRY(load_ds(7)) >= 0);
    EXPECT(NO_TRAP, TRY(load_ds(0)));
}
