/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Run-state and time areas at addresses that are Xen's, not canonical, not mapped, in page tables or
 * that go away later: Xen writes there at every switch, must not fault, and must not write into what
 * is not the guest's. */

#include "scenario.h"

static long area(unsigned int command, unsigned long address)
{
    unsigned long argument = address;

    return hypercall(vcpu_op, command, 0, &argument);
}

static void pass_time(void)
{
    for (unsigned int i = 0; i < 5; i++) {
        unsigned long until = system_time() + 500000;
        sched_poll_t poll = {.nr_ports = 0, .timeout = until};

        hypercall(sched_op, SCHEDOP_poll, &poll);
    }
}

void kernel_main(void)
{
    static const unsigned int commands[] = {
        VCPUOP_register_runstate_memory_area, VCPUOP_register_vcpu_time_memory_area,
    };
    uint8_t *page = page_before_hole(), *read_only = alloc_page();
    unsigned long *table = find_table(VIRT_BASE, 1), first = table[0];
    unsigned long own = frame_of(page, PTE_KERNEL);

    make_read_only(read_only);
    for (unsigned int i = 0; i < COUNT(commands); i++) {
        unsigned long targets[] = {
            UNMAPPED, (unsigned long)read_only, (unsigned long)table, (unsigned long)page + 4090,
            0x00007ffffffffff8ul, ~7ul, 0,
        };

        REFUSED(area(commands[i], HYPERVISOR_VIRT_START));
        REFUSED(area(commands[i], XEN_PRIVATE));
        for (unsigned int j = 0; j < COUNT(targets); j++) {
            CHECK(area(commands[i], targets[j]) <= 0);
            pass_time();
        }
        EXPECT(0, area(commands[i], (unsigned long)page + 64));
        pass_time();
        EXPECT(0, map(page, 0)); /* it goes away */
        pass_time();
        EXPECT(0, map(page, own));
        EXPECT(0, area(commands[i], (unsigned long)page + 128));
    }
    EXPECT(first, table[0]);
    EXPECT(0, read_only[0]);
}
