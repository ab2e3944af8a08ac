/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* update_descriptor at odd addresses, in frames of others, in page tables; and with every descriptor
 * type into a page that is no descriptor page yet. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long *page = alloc_page(), *table = find_table(VIRT_BASE, 1);
    unsigned long address = virt_to_maddr(page), data = 0x00cff3000000ffffull, before = table[9];
    static const unsigned long bad[] = {
        0, 0x1000, 0x2000, 0xfffff000, 0x7ffffffffffff000, ~7ul, 1ul << 52,
    };

    for (unsigned int odd = 1; odd < 8; odd++)
        REFUSED(hypercall(update_descriptor, address + odd, data));
    for (unsigned int i = 0; i < COUNT(bad); i++)
        REFUSED(hypercall(update_descriptor, bad[i], data));
    REFUSED(hypercall(update_descriptor, virt_to_maddr(&table[9]), data));
    EXPECT(before, table[9]);
    for (unsigned long type = 0; type < 32; type++) {
        /* Privilege level 0, present, base in Xen's area. */
        unsigned long descriptor = 0xff00820000000000ull | 0xffff | 1ul << 47 | type << 40;

        if (hypercall(update_descriptor, address, descriptor) == 0)
            CHECK(!(page[0] >> 47 & 1) || (page[0] >> 45 & 3) == 3 || !(page[0] >> 40 & 31));
    }
}
