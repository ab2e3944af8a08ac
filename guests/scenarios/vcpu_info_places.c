/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
// vcpus: 2
/* register_vcpu_info: frames of others, page tables, places across a page's end or not aligned, a
 * second time. The page stays writable, and cannot become a table while Xen writes to it. */

#include "scenario.h"

static long place(unsigned int vcpu, unsigned long mfn, unsigned int offset)
{
    vcpu_register_vcpu_info_t argument = {.mfn = mfn, .offset = offset};

    return hypercall(vcpu_op, VCPUOP_register_vcpu_info, vcpu, &argument);
}

void kernel_main(void)
{
    uint8_t *page = alloc_page();
    unsigned long mfn = virt_to_mfn(page);
    unsigned long bad[] = {
        0, 2, 0xffff, 0x1000000, ~0ul,
        virt_to_mfn(find_table(VIRT_BASE, 1)), virt_to_mfn(find_table(VIRT_BASE, 4)),
    };
    static const unsigned int offsets[] = {1, 4, 4033, 4036, 4040, 4096, 0x80000000, ~7u};

    for (unsigned int i = 0; i < COUNT(bad); i++)
        for (unsigned int vcpu = 0; vcpu < 2; vcpu++)
            REFUSED(place(vcpu, bad[i], 0));
    for (unsigned int i = 0; i < COUNT(offsets); i++)
        REFUSED(place(1, mfn, offsets[i]));
    EXPECT(0, place(1, mfn, 4032));
    REFUSED(place(1, mfn, 4032));
    REFUSED(place(1, virt_to_mfn(alloc_page()), 0));
    EXPECT(0, map(page, mfn << PAGE_SHIFT | PTE_READ_ONLY));
    for (unsigned int level = 0; level < 4; level++)
        REFUSED(mmuext(MMUEXT_PIN_L1_TABLE + level, mfn, 0));
    REFUSED(hypercall(set_gdt, &mfn, 512));
}
