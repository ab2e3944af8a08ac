/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* FIFO event channels: control blocks in frames that are not the guest's, or tables, or at places that
 * cross a page; event arrays likewise; more array pages than ports. */

#include "scenario.h"

static long init_control(unsigned long gfn, unsigned int offset, unsigned int vcpu)
{
    evtchn_init_control_t control = {.control_gfn = gfn, .offset = offset, .vcpu = vcpu};

    return event_op(EVTCHNOP_init_control, &control);
}

static long expand(unsigned long gfn)
{
    evtchn_expand_array_t array = {.array_gfn = gfn};

    return event_op(EVTCHNOP_expand_array, &array);
}

void kernel_main(void)
{
    uint8_t *block = alloc_page();
    unsigned long mfn = virt_to_mfn(block), pages = 0;
    unsigned long bad[] = {
        0, 2, 0xffff, 0x1000000, ~0ul, virt_to_mfn(find_table(VIRT_BASE, 1)),
        virt_to_mfn(find_table(VIRT_BASE, 4)),
    };
    static const unsigned int offsets[] = {1, 4, 7, PAGE_SIZE - 64, PAGE_SIZE - 8, PAGE_SIZE, ~7u};

    REFUSED(expand(virt_to_mfn(alloc_page()))); /* before init_control */
    for (unsigned int i = 0; i < COUNT(bad); i++)
        REFUSED(init_control(bad[i], 0, 0));
    for (unsigned int i = 0; i < COUNT(offsets); i++)
        REFUSED(init_control(mfn, offsets[i], 0));
    REFUSED(init_control(mfn, 0, 1));
    REFUSED(init_control(mfn, 0, ~0u));
    EXPECT(0, init_control(mfn, 0, 0));
    REFUSED(init_control(mfn, 0, 0));
    REFUSED(mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0));
    for (unsigned int i = 0; i < COUNT(bad); i++)
        REFUSED(expand(bad[i]));
    while (pages < 200 && expand(virt_to_mfn(alloc_page())) == 0)
        pages++;
    CHECK(pages > 0);
    CHECK(pages <= 128);
}
