/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Stores to a page table that is mapped read-only: once the guest has asked for it (by vm_assist), Xen
 * emulates those to L1 tables if the new entry is good, and gives a page fault for all others, also in parts of an entry, by several instructions,
 * and for upper tables. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long *table = alloc_table(), *l2 = find_table(VIRT_BASE, 2);
    uint8_t *page = alloc_page();
    unsigned long good = frame_of(page, PTE_KERNEL), xen = XEN_FRAME | PTE_KERNEL;
    unsigned long before = l2[1];

    EXPECT(0, mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(table), 0));
    EXPECT(TRAP_PAGE_FAULT, try_write(&table[3], good));
    EXPECT(0, hypercall(vm_assist, VMASST_CMD_enable, VMASST_TYPE_writable_pagetables));
    EXPECT(NO_TRAP, try_write(&table[3], good));
    EXPECT(good, table[3]);
    EXPECT(TRAP_PAGE_FAULT, try_write(&table[3], xen));
    EXPECT(TRAP_PAGE_FAULT, try_write(&table[3], frame_of(table, PTE_KERNEL)));
    EXPECT(TRAP_PAGE_FAULT, try_write(&table[3], good | 1ul << 4));
    EXPECT(good, table[3]);
    EXPECT(TRAP_PAGE_FAULT, try_write((uint8_t *)&table[3] + 4, ~0ul)); /* two entries */
    EXPECT(TRAP_PAGE_FAULT, TRY(*(volatile uint8_t *)((uint8_t *)&table[3] + 6) = 0xff));
    EXPECT(good, table[3]);
    EXPECT(NO_TRAP, TRY(*(volatile uint32_t *)&table[3] = 0));
    EXPECT(NO_TRAP, TRY(asm volatile("lock cmpxchgq %1, %0"
                                     : "+m"(table[4])
                                     : "r"(good), "a"(0ul)
                                     : "memory")));
    EXPECT(good, table[4]);
    EXPECT(TRAP_PAGE_FAULT, TRY(asm volatile("xchgq %1, %0"
                                             : "+m"(table[4])
                                             : "r"(xen)
                                             : "memory")));
    EXPECT(TRAP_PAGE_FAULT, TRY(asm volatile("lock orq %1, %0"
                                             : "+m"(table[4])
                                             : "r"(1ul << 4)
                                             : "memory")));
    EXPECT(good, table[4]);
    EXPECT(TRAP_PAGE_FAULT, try_write(&l2[1], 0));
    EXPECT(before, l2[1]);
    EXPECT(0, mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(table), 0));
    make_writable(table);
}
