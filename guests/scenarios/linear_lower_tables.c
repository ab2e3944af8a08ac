/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Linear tables below the top: an L2 that points at itself, at another L2, and chains of them. Xen
 * allows one step read-only, and forbids that such a table is itself used by another so, as they could
 * keep each other alive. However it is decided, no count may go wrong, and no way to write may open. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long *l2 = alloc_table(), *other = alloc_table(), *third = alloc_table();

    EXPECT(0, mmuext(MMUEXT_PIN_L2_TABLE, virt_to_mfn(l2), 0));
    EXPECT(0, mmuext(MMUEXT_PIN_L2_TABLE, virt_to_mfn(other), 0));
    EXPECT(0, mmuext(MMUEXT_PIN_L2_TABLE, virt_to_mfn(third), 0));
    REFUSED(write_entry(entry_in(l2, 0), frame_of(l2, PTE_KERNEL)));
    REFUSED(write_entry(entry_in(l2, 0), frame_of(other, PTE_KERNEL)));
    for (unsigned int round = 0; round < 3; round++) {
        write_entry(entry_in(l2, 1), frame_of(l2, PTE_READ_ONLY));
        write_entry(entry_in(l2, 2), frame_of(other, PTE_READ_ONLY));
        write_entry(entry_in(other, 2), frame_of(third, PTE_READ_ONLY));
        write_entry(entry_in(third, 2), frame_of(l2, PTE_READ_ONLY));
        REFUSED(map(other, frame_of(other, PTE_KERNEL)));
        EXPECT(0, mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(other), 0));
        CHECK(mmuext(MMUEXT_PIN_L2_TABLE, virt_to_mfn(other), 0) <= 0);
        EXPECT(0, write_entry(entry_in(l2, 1), 0));
        EXPECT(0, write_entry(entry_in(l2, 2), 0));
        write_entry(entry_in(other, 2), 0);
        EXPECT(0, write_entry(entry_in(third, 2), 0));
    }
    EXPECT(0, mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(l2), 0));
    EXPECT(0, mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(third), 0));
    make_writable(l2);
    make_writable(third);
}
