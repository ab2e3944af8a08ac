/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* System descriptors: gates, task segments, local tables. Any of them could lead to Xen; all that are
 * present are refused in set_gdt and in update_descriptor, where nothing changes. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long *gdt = alloc_page(), mfn = virt_to_mfn(gdt), address = virt_to_maddr(gdt);

    for (unsigned long type = 1; type < 16; type++) {
        /* Target: Xen's code; privilege level 3, present. */
        unsigned long gate = 0xffff8200e008ffffull | (0x80 | 0x60 | type) << 40;

        gdt[17] = gate;
        make_read_only(gdt);
        REFUSED(hypercall(set_gdt, &mfn, 512));
        REFUSED(hypercall(set_gdt, &mfn, 18));
        make_writable(gdt);
        gdt[17] = 0;
        make_read_only(gdt);
        EXPECT(0, hypercall(set_gdt, &mfn, 512));
        REFUSED(hypercall(update_descriptor, address + 17 * 8, gate));
        REFUSED(hypercall(update_descriptor, address + 511 * 8, gate));
        EXPECT(0, gdt[17]);
        EXPECT(0, hypercall(set_gdt, NULL, 0));
        make_writable(gdt);
    }
}
