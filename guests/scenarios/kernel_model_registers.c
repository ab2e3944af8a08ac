/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* rdmsr and wrmsr over a sweep of numbers with wild values: a fault, or a harmless answer. Those that
 * could give privilege keep their values. */

#include "scenario.h"

static unsigned long read_msr(unsigned int number)
{
    uint32_t low, high;

    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(number));
    return (unsigned long)high << 32 | low;
}

static void write_msr(unsigned int number, unsigned long value)
{
    asm volatile("wrmsr" : : "c"(number), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

void kernel_main(void)
{
    static const unsigned int ranges[] = {0, 0x180, 0x400, 0x800, 0xc00, 0x40000000, 0xc0000080,
                                          0xc0000100, 0xc0010000, 0xffffff80};
    static const unsigned int kept[] = {0xc0000080, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084,
                                        0x174, 0x175, 0x176, 0x1b, 0x277};
    static volatile unsigned long before[COUNT(kept)], after;
    static volatile int traps[COUNT(kept)];

    for (unsigned int i = 0; i < COUNT(kept); i++)
        traps[i] = TRY(before[i] = read_msr(kept[i]));
    for (unsigned int i = 0; i < COUNT(ranges); i++)
        for (unsigned int number = ranges[i]; number < ranges[i] + 64; number++) {
            volatile unsigned long value = random_number();
            int vector;

            if (number >= 0xc0000100 && number <= 0xc0000102)
                continue; /* bases: the kernel's own */
            vector = TRY(write_msr(number, value));
            CHECK(vector == NO_TRAP || vector == TRAP_GENERAL_PROTECTION);
            vector = TRY(read_msr(number));
            CHECK(vector == NO_TRAP || vector == TRAP_GENERAL_PROTECTION);
        }
    for (unsigned int i = 0; i < COUNT(kept); i++) {
        EXPECT(traps[i], TRY(after = read_msr(kept[i])));
        if (traps[i] == NO_TRAP)
            EXPECT(before[i], after);
    }
}
