/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* A fault in the handler of a fault, a hundred deep, each with the frame of the one before still on
 * the stack; then all return. No double fault: that is for Xen itself. */

#include "scenario.h"

static volatile unsigned int depth, deepest;

static bool nest(struct trap_frame *frame)
{
    if (frame->vector != TRAP_INVALID_OPCODE && frame->vector != TRAP_PAGE_FAULT)
        return false;
    if (++depth > deepest)
        deepest = depth;
    if (depth < 100) {
        if (depth & 1)
            asm volatile("ud2");
        else
            asm volatile("movb $0, (%0)" : : "a"(UNMAPPED)); /* two bytes, skipped below */
    }
    depth--;
    frame->rip += frame->vector == TRAP_PAGE_FAULT ? 3 : 2;
    return true;
}

void kernel_main(void)
{
    trap_hook = nest;
    asm volatile("ud2");
    trap_hook = NULL;
    EXPECT(100, deepest);
    EXPECT(0, depth);
    EXPECT(0, trap_counts[TRAP_DOUBLE_FAULT]);
}
