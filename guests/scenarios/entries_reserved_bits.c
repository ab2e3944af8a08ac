/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Bits of entries that a guest must not set: cacheability, large pages, global upper entries, and
 * addresses beyond the machine. Bits 52 to 61 are its own, and an entry that is not present may hold
 * anything. */

#include "scenario.h"

void kernel_main(void)
{
    uint8_t *page = alloc_page();
    unsigned long entry = read_entry((unsigned long)page, 1);
    unsigned long l1 = find_entry((unsigned long)page, 1);
    unsigned long l2 = find_entry((unsigned long)page, 2), l2e = read_entry((unsigned long)page, 2);
    unsigned long l3 = find_entry((unsigned long)page, 3), l3e = read_entry((unsigned long)page, 3);
    unsigned long l4 = find_entry((unsigned long)page, 4), l4e = read_entry((unsigned long)page, 4);

    for (unsigned int bit = 52; bit < 62; bit++) {
        EXPECT(0, write_entry(l1, entry | 1ul << bit));
        EXPECT(0, write_entry(l2, l2e | 1ul << bit));
        EXPECT(0, write_entry(l3, l3e | 1ul << bit));
        EXPECT(0, write_entry(l4, l4e | 1ul << bit));
    }
    EXPECT(0, write_entry(l2, l2e));
    EXPECT(0, write_entry(l3, l3e));
    EXPECT(0, write_entry(l4, l4e));
    for (unsigned long bits = 8; bits <= 0x98; bits += 8) {
        if (!(bits & 0x98) || bits & ~0x98ul)
            continue;
        REFUSED(write_entry(l1, entry | bits));
        REFUSED(write_entry(l2, l2e | bits));
        REFUSED(write_entry(l3, l3e | bits));
        REFUSED(write_entry(l4, l4e | bits));
    }
    REFUSED(write_entry(l2, l2e | 0x100));
    REFUSED(write_entry(l4, l4e | 0x100));
    for (unsigned int bit = 40; bit < 52; bit++)
        REFUSED(write_entry(l1, entry | 1ul << bit));
    REFUSED(write_entry(l2, l2e | PTE_PSE));
    REFUSED(write_entry(l3, l3e | PTE_PSE));
    REFUSED(write_entry(l4, l4e | PTE_PSE));
    EXPECT(0, write_entry(l1, ~PTE_PRESENT));
    EXPECT(0, write_entry(l1, 0x5555555555555554));
    EXPECT(0, write_entry(l1, entry));
    EXPECT(NO_TRAP, try_write(page, 1));
    EXPECT(l2e, read_entry((unsigned long)page, 2));
    EXPECT(l3e, read_entry((unsigned long)page, 3));
    EXPECT(l4e, read_entry((unsigned long)page, 4));
}
