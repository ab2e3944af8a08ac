/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
// vcpus: 2
/* Selectors that go stale while another vCPU runs: the descriptor of a loaded segment is gone when Xen
 * loads the registers again. Xen calls the failsafe callback. */

#include "scenario.h"

#define SELECTOR 7

static unsigned long *ldt;
static volatile unsigned int failures;
static volatile unsigned long turns;

static bool on_trap(struct trap_frame *frame)
{
    if (frame->vector != TRAP_FAILSAFE)
        return false;
    failures++;
    return true;
}

static void other(void)
{
    for (;;) {
        turns++;
        hypercall(sched_op, SCHEDOP_yield, NULL);
    }
}

static void let_the_other_run(void)
{
    unsigned long before = turns;

    for (unsigned int i = 0; i < 10000 && turns == before; i++)
        hypercall(sched_op, SCHEDOP_yield, NULL);
    CHECK(turns != before);
}

#define LOAD(segment, selector) asm volatile("mov %0, %%" #segment : : "r"(selector))
#define STORE(segment)                                                                            \
    ({                                                                                            \
        unsigned int selector_;                                                                   \
        asm volatile("mov %%" #segment ", %0" : "=r"(selector_));                                 \
        selector_;                                                                                \
    })

static void set_descriptor(unsigned long descriptor)
{
    EXPECT(0, hypercall(update_descriptor, virt_to_maddr(ldt), descriptor));
}

#define GOES_STALE(segment)                                                                       \
    do {                                                                                          \
        unsigned int before_ = failures;                                                          \
        set_descriptor(0x00cff3000000ffffull);                                                    \
        LOAD(segment, SELECTOR);                                                                  \
        let_the_other_run();                                                                      \
        EXPECT(before_, failures);                                                                \
        EXPECT(SELECTOR, STORE(segment));                                                         \
        set_descriptor(0);                                                                        \
        EXPECT(SELECTOR, STORE(segment));                                                         \
        let_the_other_run();                                                                      \
        EXPECT(before_ + 1, failures);                                                            \
        EXPECT(0, STORE(segment));                                                                \
    } while (0)


void kernel_main(void)
{
    ldt = alloc_page();
    ldt[0] = 0x00cff3000000ffffull;
    make_read_only(ldt);
    EXPECT(0, mmuext(MMUEXT_SET_LDT, (unsigned long)ldt, 512));
    trap_hook = on_trap;
    EXPECT(0, start_vcpu(1, other));
    GOES_STALE(ds);
    GOES_STALE(es);
    GOES_STALE(fs);
    EXPECT(0, hypercall(vcpu_op, VCPUOP_down, 1, NULL));
    EXPECT(0, hypercall(vcpu_op, VCPUOP_is_up, 1, NULL));
}
