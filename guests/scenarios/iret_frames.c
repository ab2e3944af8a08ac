/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* iret frames that ask for too much: privileged selectors, all flags, virtual-8086 mode, selectors of
 * nothing. The kernel stays what it was. */

#include "scenario.h"

static volatile unsigned long seen_flags, reached;

static void arrive(void)
{
    unsigned long flags, unused;

    asm volatile("pushfq; pop %0" : "=r"(flags));
    seen_flags = flags;
    reached++;
    asm volatile("mov %%cr8, %0" : "=r"(unused));
    fail("cr8 can be read");
}

static void return_with(unsigned long cs, unsigned long rflags, unsigned long ss)
{
    struct trap_frame frame = {
        .rip = (unsigned long)arrive, .cs = cs, .rflags = rflags, .ss = ss,
    };
    frame.rsp = ((unsigned long)&frame - 512) | 8;
    resume(&frame);
}

void kernel_main(void)
{
    static const unsigned long selectors[] = {
        FLAT_KERNEL_CS & ~3, (FLAT_KERNEL_CS & ~3) | 1, (FLAT_KERNEL_CS & ~3) | 2, 0xe008, 0xe000,
        0, 4, 0xfff8, 0xe040, 0xffff0000e030,
    };

    for (unsigned int i = 0; i < COUNT(selectors); i++) {
        CHECK(TRY(return_with(selectors[i], 0x202, FLAT_KERNEL_SS)) >= 0);
        CHECK(TRY(return_with(FLAT_KERNEL_CS & ~3, 0x202, selectors[i])) >= 0);
    }
    CHECK(reached > 0);
    for (unsigned int bit = 9; bit < 64; bit++) {
        if (bit == 14 || bit == 18)
            continue; /* NT and AC are the guest's own */
        CHECK(TRY(return_with(FLAT_KERNEL_CS & ~3, 0x202 | 1ul << bit, FLAT_KERNEL_SS)) >= 0);
        EXPECT(0, seen_flags & (3ul << 12 | 1ul << 17));
    }
}
