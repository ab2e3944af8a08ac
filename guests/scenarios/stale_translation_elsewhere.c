/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
// vcpus: 2
/* The stale translation is another vCPU's: it has written to a page, the first one maps the page
 * read-only without a flush and makes it a table. The other's next write must not get there. */

#include "scenario.h"

static unsigned long *page;
static volatile int written, again, outcome = -2;

static bool on_trap(struct trap_frame *frame)
{
    if (frame->vector != TRAP_PAGE_FAULT || !again)
        return false;
    outcome = TRAP_PAGE_FAULT;
    vcpu_down();
}

static void second(void)
{
    page[7] = 0;
    written = 1;
    while (!again)
        hypercall(sched_op, SCHEDOP_yield, NULL);
    page[7] = XEN_FRAME | PTE_KERNEL;
    outcome = NO_TRAP;
}

void kernel_main(void)
{
    unsigned long mfn;

    page = alloc_page();
    mfn = virt_to_mfn(page);
    trap_hook = on_trap;
    EXPECT(0, start_vcpu(1, second));
    while (!written)
        hypercall(sched_op, SCHEDOP_yield, NULL);
    EXPECT(0, write_entry(find_entry((unsigned long)page, 1), mfn << PAGE_SHIFT | PTE_READ_ONLY));
    EXPECT(0, mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0));
    again = 1;
    while (outcome == -2)
        hypercall(sched_op, SCHEDOP_yield, NULL);
    EXPECT(TRAP_PAGE_FAULT, outcome);
    EXPECT(0, page[7]);
}
