/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What scenarios share: pointers that Xen must refuse, and shorthands. */
#ifndef SCENARIO_H
#define SCENARIO_H

#include "runtime.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
/* The address of a frame that is Xen's alone. */
#define XEN_FRAME (5ul << PAGE_SHIFT)

/* Any error number. */
#define REFUSED(call)                                                                             \
    do {                                                                                          \
        long refused_ = (call);                                                                   \
        if (!check(refused_ < 0 && refused_ > -4096, "refused: " #call, __FILE__, __LINE__))      \
            printk("it returned %ld\n", refused_);                                                \
    } while (0)

static inline long event_op(unsigned int command, void *argument)
{
    return hypercall(event_channel_op, command, argument);
}

static inline long memory_op(unsigned int command, void *argument)
{
    return hypercall(memory_op, command, argument);
}

/* The last mapped page before a hole: pointers near its end cross into what is not mapped. */
static inline uint8_t *page_before_hole(void)
{
    static uint8_t *page;

    if (!page) {
        page = alloc_page();
        map(alloc_page(), 0);
    }
    return page;
}

/* Pointers at which nothing can be read: not mapped, Xen's private area, beyond it, not canonical,
 * the end of the address space, and one whose structure crosses into a page that is not mapped. */
static inline unsigned long bad_pointer(unsigned int number)
{
    switch (number) {
    case 0:
        return UNMAPPED;
    case 1:
        return UNMAPPED + 3;
    case 2:
        return XEN_PRIVATE + 0x800000000ul;
    case 3:
        return HYPERVISOR_VIRT_END - 1;
    case 4:
        return NON_CANONICAL;
    case 5:
        return 0x00007ffffffffffful;
    case 6:
        return ~0ul;
    case 7:
        return (unsigned long)page_before_hole() + PAGE_SIZE - 1;
    default:
        return 0;
    }
}
#define BAD_POINTERS 9

/* Expect an error of a hypercall for each bad pointer, which is called `bad` in it. */
#define EXPECT_BAD_POINTERS(error, call)                                                          \
    do {                                                                                          \
        for (unsigned int number_ = 0; number_ < BAD_POINTERS; number_++) {                       \
            void *bad = (void *)bad_pointer(number_);                                             \
            long result_ = (call);                                                                \
            if (result_ != (error))                                                               \
                printk("pointer %p:\n", bad);                                                     \
            check_equal(result_, (error), #call, __FILE__, __LINE__);                             \
        }                                                                                         \
    } while (0)

/* A fresh table mapped read-only. */
static inline unsigned long *alloc_table(void)
{
    unsigned long *table = alloc_page();

    make_read_only(table);
    return table;
}

static inline unsigned long frame_of(const volatile void *page, unsigned long flags)
{
    return virt_to_mfn(page) << PAGE_SHIFT | flags;
}

/* The machine address of an entry of a table. */
static inline unsigned long entry_in(unsigned long *table, unsigned int index)
{
    return virt_to_maddr(&table[index]);
}

#endif
