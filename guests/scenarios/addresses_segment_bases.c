/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Segment bases that are not canonical, by set_segment_base and by wrmsr; unknown ones; selectors that
 * name nothing for GS_USER_SEL, which never fails and loads null then. */

#include "scenario.h"

static void write_msr(unsigned int msr, unsigned long value)
{
    asm volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

void kernel_main(void)
{
    for (unsigned int bit = 47; bit < 64; bit++) {
        for (unsigned int which = SEGBASE_FS; which <= SEGBASE_GS_KERNEL; which++)
            EXPECT(-XEN_EINVAL, hypercall(set_segment_base, which, 1ul << bit));
        for (unsigned int msr = 0xc0000100; msr <= 0xc0000102; msr++)
            EXPECT(TRAP_GENERAL_PROTECTION, TRY(write_msr(msr, 1ul << bit)));
    }
    for (unsigned int which = 4; which < 100; which++)
        EXPECT(-XEN_EINVAL, hypercall(set_segment_base, which, 0));
    for (unsigned int selector = 0; selector < 0x10000; selector += 257)
        EXPECT(0, hypercall(set_segment_base, SEGBASE_GS_USER_SEL, selector));
    for (unsigned int which = SEGBASE_FS; which <= SEGBASE_GS_KERNEL; which++) {
        EXPECT(0, hypercall(set_segment_base, which, XEN_PRIVATE));
        EXPECT(0, hypercall(set_segment_base, which, 0));
    }
}
