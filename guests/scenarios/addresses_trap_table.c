/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* set_trap_table with handlers that are not canonical, and one that does not end: it reads until it
 * faults. The entries before the bad one are set. */

#include "scenario.h"

void kernel_main(void)
{
    static trap_info_t table[3];
    trap_info_t *endless = (void *)page_before_hole();

    table[0].vector = 20;
    table[0].cs = FLAT_KERNEL_CS;
    table[0].address = 0x1234;
    table[1] = table[0];
    table[1].vector = TRAP_PAGE_FAULT;
    for (unsigned int bit = 47; bit < 64; bit++) {
        table[1].address = 1ul << bit;
        EXPECT(-XEN_EINVAL, hypercall(set_trap_table, table));
    }
    for (unsigned int i = 0; i < PAGE_SIZE / sizeof(*endless); i++) {
        endless[i].vector = (uint8_t)(100 + i % 100);
        endless[i].cs = 0xffff;
        endless[i].flags = 0xff;
        endless[i].address = UNMAPPED;
    }
    EXPECT(-XEN_EFAULT, hypercall(set_trap_table, endless));
    EXPECT(TRAP_PAGE_FAULT, try_read((void *)UNMAPPED));
}
