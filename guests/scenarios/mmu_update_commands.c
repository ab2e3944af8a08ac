/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* mmu_update: unknown commands, other domains, odd places, and the count of those done before the bad
 * one in a batch. */

#include "scenario.h"

void kernel_main(void)
{
    uint8_t *page = alloc_page();
    unsigned long entry = find_entry((unsigned long)page, 1), value = frame_of(page, PTE_KERNEL);
    mmu_update_t batch[4];
    unsigned int done = 99;

    for (unsigned int command = 4; command < 8; command++)
        REFUSED(write_entry(entry | command, value));
    for (unsigned int domid = 0; domid < 0x10000; domid += domid < 10 ? 1 : 4097) {
        mmu_update_t request = {.ptr = entry, .val = value};

        if (domid != 1) /* that is itself */
            REFUSED(hypercall(mmu_update, &request, 1, NULL, domid));
    }
    REFUSED(hypercall(mmu_update, &batch, 1, NULL, DOMID_XEN));
    REFUSED(hypercall(mmu_update, &batch, 1, NULL, 1ul << 16 | DOMID_SELF));
    for (unsigned int bad = 0; bad < 4; bad++) {
        for (unsigned int i = 0; i < 4; i++) {
            batch[i].ptr = entry;
            batch[i].val = i == bad ? XEN_FRAME | PTE_KERNEL : value;
        }
        REFUSED(hypercall(mmu_update, batch, 4, &done, DOMID_SELF));
        EXPECT(bad, done);
    }
    EXPECT(0, hypercall(mmu_update, batch, 0, &done, DOMID_SELF));
    EXPECT(0, done);
    REFUSED(write_entry(~7ul, value));
    REFUSED(write_entry(0, value));
    REFUSED(write_entry(0x20ul << PAGE_SHIFT, 0));
}
