/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* set_gdt with frames that cannot be descriptor pages (page tables, Xen's, none, mapped writable), too
 * many entries, and a bad one behind good ones. The old table stays. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long *good = alloc_table(), *writable = alloc_page();
    unsigned long good_mfn = virt_to_mfn(good), frames[16];
    unsigned long bad[] = {
        virt_to_mfn(find_table(VIRT_BASE, 1)), virt_to_mfn(find_table(VIRT_BASE, 4)), 1, 2, 3,
        0xffff, 0x400000, ~0ul, 1ul << 52, virt_to_mfn(writable),
    };

    EXPECT(0, hypercall(set_gdt, &good_mfn, 512));
    for (unsigned int i = 0; i < COUNT(bad); i++)
        for (unsigned int place = 0; place < 14; place += 13) {
            for (unsigned int j = 0; j < 16; j++)
                frames[j] = good_mfn;
            frames[place] = bad[i];
            REFUSED(hypercall(set_gdt, frames, (place + 1) * 512));
        }
    for (unsigned int j = 0; j < 16; j++)
        frames[j] = good_mfn;
    REFUSED(hypercall(set_gdt, frames, 14 * 512 + 1));
    REFUSED(hypercall(set_gdt, frames, 16 * 512));
    REFUSED(hypercall(set_gdt, frames, ~0u));
    EXPECT(0, hypercall(set_gdt, frames, 14 * 512));
    REFUSED(map(good, good_mfn << PAGE_SHIFT | PTE_KERNEL));
    EXPECT(TRAP_PAGE_FAULT, try_write(good, ~0ul));
    EXPECT(0, hypercall(set_gdt, NULL, 0));
    make_writable(good);
    EXPECT(NO_TRAP, try_write(good, 0));
}
