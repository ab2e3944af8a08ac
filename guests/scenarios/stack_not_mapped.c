/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: crash "stack"
// variants: UNMAPPED_STACK, XEN_STACK, NON_CANONICAL_STACK, READ_ONLY_STACK, TABLE_STACK
/* A trap in the kernel with a stack pointer at which no frame can be written: Xen has nobody to tell,
 * and crashes the domain. Into its own area, or a page table, it must not write. */

#include "scenario.h"

void kernel_main(void)
{
#if defined(UNMAPPED_STACK)
    unsigned long stack = UNMAPPED;
#elif defined(XEN_STACK)
    unsigned long stack = HYPERVISOR_VIRT_START + 0x1000;
#elif defined(NON_CANONICAL_STACK)
    unsigned long stack = NON_CANONICAL;
#elif defined(READ_ONLY_STACK)
    uint8_t *page = alloc_page();
    unsigned long stack = (unsigned long)page + PAGE_SIZE;

    make_read_only(page);
#else
    unsigned long stack = (unsigned long)find_table(VIRT_BASE, 1) + 1024;
#endif
    printk("now\n");
    asm volatile("mov %0, %%rsp; ud2" : : "r"(stack));
    fail("still here");
}
