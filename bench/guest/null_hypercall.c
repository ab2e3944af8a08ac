/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a hypercall costs that does nothing, alone and as an entry of a multicall: ticks of the
 * time-stamp counter, which runs as the host's. */
#include "runtime.h"

enum { COUNT = 20000, ENTRIES = 32, ROUNDS = 5 };

static unsigned long alone(void)
{
    unsigned long start = __builtin_ia32_rdtsc();

    for (int i = 0; i < COUNT; i++)
        hypercall(xen_version, XENVER_version, 0);
    return (__builtin_ia32_rdtsc() - start) / COUNT;
}

static unsigned long in_multicall(void)
{
    static multicall_entry_t calls[ENTRIES];
    unsigned long start = __builtin_ia32_rdtsc();

    for (int i = 0; i < COUNT / ENTRIES; i++) {
        for (int entry = 0; entry < ENTRIES; entry++)
            calls[entry] = (multicall_entry_t){ .op = __HYPERVISOR_xen_version };
        hypercall(multicall, calls, ENTRIES);
    }
    return (__builtin_ia32_rdtsc() - start) / COUNT;
}

static void report(const char *name, unsigned long (*measure)(void))
{
    unsigned long best = measure();

    for (int round = 1; round < ROUNDS; round++) {
        unsigned long ticks = measure();
        if (ticks < best)
            best = ticks;
    }
    /* As vcpu_time_info says: shift first, then multiply by a fraction of 2^32. */
    vcpu_time_info_t *time = &vcpu_info(0)->time;
    unsigned long ticks = time->tsc_shift < 0 ? best >> -time->tsc_shift : best << time->tsc_shift;
    printk("LATENCY %s %lu\n", name, ticks * time->tsc_to_system_mul >> 32);
}

void kernel_main(void)
{
    report("null-hypercall", alone);
    report("multicall-entry", in_multicall);
    shutdown(SHUTDOWN_poweroff);
}
