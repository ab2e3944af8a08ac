/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Slots 256 to 271 of every L4 table are Xen's: no update of them, and what a guest has written
 * there before is replaced when the table becomes one. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long *l4 = (unsigned long *)start_info->pt_base, *other = alloc_page();
    unsigned long *l3 = alloc_table();

    for (unsigned int slot = 256; slot < 272; slot++) {
        REFUSED(write_entry(entry_in(l4, slot), 0));
        REFUSED(write_entry(entry_in(l4, slot), frame_of(l3, PTE_KERNEL)));
        other[slot] = frame_of(l3, PTE_KERNEL) | 1ul << 62;
    }
    make_read_only(other);
    EXPECT(0, mmuext(MMUEXT_PIN_L4_TABLE, virt_to_mfn(other), 0));
    for (unsigned int slot = 256; slot < 272; slot++) {
        CHECK((other[slot] & PTE_FRAME) != frame_of(l3, 0));
        REFUSED(write_entry(entry_in(other, slot), 0));
    }
    EXPECT(0, write_entry(entry_in(other, 255), frame_of(l3, PTE_KERNEL)));
    EXPECT(0, write_entry(entry_in(other, 272), frame_of(l3, PTE_KERNEL)));
    /* And not by the way of update_va_mapping, either. */
    for (unsigned int slot = 0; slot < 16; slot++)
        REFUSED(map((void *)(HYPERVISOR_VIRT_START + ((unsigned long)slot << 39)), 0));
}
