/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: any
// variants: SEED=1, SEED=2, SEED=3, SEED=4, SEED=5, SEED=6
/* Every hypercall with random commands and arguments, drawn from what is likely to go deep: good and
 * bad addresses, frames, small numbers, structures full of random words. The guest may well destroy
 * itself; nothing else may break. */

#include "scenario.h"

#ifndef SEED
#define SEED 1
#endif
#define CALLS 6000

static uint8_t *pages[8];

static unsigned long random_argument(void)
{
    unsigned long choice = random_number(), value = random_number() >> 3;

    switch (choice % 16) {
    case 0: case 1:
        return value % 8;
    case 2:
        return value % 64;
    case 3: case 4: case 5: case 6:
        return (unsigned long)pages[value % COUNT(pages)] + (value >> 8) % 4 * 8;
    case 7:
        return (unsigned long)pages[value % COUNT(pages)] + (value >> 8) % 4096;
    case 8:
        return DOMID_SELF;
    case 9:
        return virt_to_mfn(pages[value % COUNT(pages)]);
    case 10:
        return virt_to_maddr(pages[value % COUNT(pages)]) | PTE_KERNEL;
    case 11:
        return bad_pointer((unsigned int)(value % BAD_POINTERS));
    case 12:
        return 1ul << value % 64;
    case 13:
        return ~0ul - value % 16;
    case 14:
        return value % 0x20000 << PAGE_SHIFT;
    default:
        return random_number();
    }
}

static void fill_page(void)
{
    unsigned long *page = (void *)pages[random_number() % COUNT(pages)];

    if (try_write(page, 0) != NO_TRAP)
        return;
    for (unsigned int i = 0; i < 24; i++)
        page[i] = random_argument();
    for (unsigned int i = 0; i < 48; i++)
        if (random_number() % 2)
            ((uint32_t *)page)[i] = (uint32_t)(random_number() % 12);
}

void kernel_main(void)
{
    random_state += SEED * 0x123456789ul;
    for (unsigned int i = 0; i < COUNT(pages); i++)
        pages[i] = alloc_page();
    for (unsigned int i = 0; i < CALLS; i++) {
        unsigned long number = random_number() % 50, command = random_argument();

        /* Not the end, sleep without end, and a screen full of nonsense. */
        if (number == __HYPERVISOR_sched_op || number == __HYPERVISOR_sched_op_compat ||
            number == __HYPERVISOR_iret || number == __HYPERVISOR_console_io ||
            number == __HYPERVISOR_multicall)
            continue;
        if (random_number() % 2)
            command = random_number() % 32;
        if (number == __HYPERVISOR_vcpu_op && command == VCPUOP_down)
            continue;
        if (i % 4 == 0)
            fill_page();
        hypercall_number(number, command, random_argument(), random_argument(), random_argument(),
                         random_argument());
        /* Its own way of being told goes on. */
        if (number == __HYPERVISOR_set_trap_table)
            set_trap_table();
        if (number == __HYPERVISOR_set_callbacks || number == __HYPERVISOR_callback_op)
            hypercall(set_callbacks, event_entry, failsafe_entry, syscall_entry);
        mask_events();
    }
    printk("through\n");
    CHECK(true);
}
