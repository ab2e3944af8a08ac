/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* GNTTABOP_copy between one's own frames: lengths and offsets beyond a page, frames of Xen's, and page
 * tables as the target. */

#include "scenario.h"

static long copy(unsigned long from, unsigned int from_offset, unsigned long to,
                 unsigned int to_offset, unsigned int length)
{
    gnttab_copy_t operation = {.len = (uint16_t)length};
    long result;

    operation.source.u.gmfn = from;
    operation.source.domid = operation.dest.domid = DOMID_SELF;
    operation.source.offset = (uint16_t)from_offset;
    operation.dest.u.gmfn = to;
    operation.dest.offset = (uint16_t)to_offset;
    result = hypercall(grant_table_op, GNTTABOP_copy, &operation, 1);
    return result ? result : operation.status;
}

void kernel_main(void)
{
    unsigned long *source = alloc_page(), *target = alloc_page();
    unsigned long from = virt_to_mfn(source), to = virt_to_mfn(target);

    for (unsigned int i = 0; i < 512; i++)
        source[i] = i;
    REFUSED(copy(from, 0, to, 0, 4097));
    REFUSED(copy(from, 1, to, 0, 4096));
    REFUSED(copy(from, 0, to, 4095, 2));
    REFUSED(copy(from, 0xffff, to, 0, 1));
    REFUSED(copy(from, 0, to, 0, 0xffff));
    EXPECT(0, target[1]);
    for (unsigned int level = 1; level <= 4; level++) {
        unsigned long *table = find_table(VIRT_BASE, level), before = table[511];

        REFUSED(copy(from, 0, virt_to_mfn(table), 0, 4096));
        EXPECT(before, table[511]);
    }
    for (unsigned long mfn = 0; mfn < 0x10000; mfn += 211) {
        REFUSED(copy(from, 0, mfn, 0, 16));
        REFUSED(copy(mfn, 0, to, 0, 16));
    }
    REFUSED(copy(from, 0, ~0ul, 0, 16));
    REFUSED(copy(1ul << 36, 0, to, 0, 16));
    EXPECT(0, copy(from, 8, to, 16, 24));
    EXPECT(1, target[2]);
    EXPECT(0, target[5]);
}
