/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: crash "stack"
/* Handlers that lie in Xen's area can be registered; going there is a page fault, whose handler lies
 * there too. The kernel's stack ends at a hole: no frame fits any more, and Xen crashes the domain. */

#include "scenario.h"

void kernel_main(void)
{
    static trap_info_t table[] = {
        {.vector = TRAP_PAGE_FAULT, .cs = FLAT_KERNEL_CS, .address = XEN_PRIVATE},
        {.vector = TRAP_GENERAL_PROTECTION, .cs = FLAT_KERNEL_CS, .address = XEN_PRIVATE},
        {0},
    };
    uint8_t *hole = alloc_page(), *stack = alloc_page();

    CHECK(map(hole, 0) == 0);
    CHECK(hypercall(set_trap_table, table) == 0);
    printk("now\n");
    asm volatile("mov %0, %%rsp; movb $0, (%1)" : : "r"(stack + PAGE_SIZE), "r"(UNMAPPED));
    fail("still here");
}
