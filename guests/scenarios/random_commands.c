/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: any
// variants: VERSION, MEMORY, EVENTS, GRANTS, PHYSDEV, VCPU, MMUEXT, CALLBACKS
/* One hypercall with every command number, each with many random structures. */

#include "scenario.h"

#if defined(VERSION)
#define NUMBER __HYPERVISOR_xen_version
#elif defined(MEMORY)
#define NUMBER __HYPERVISOR_memory_op
#elif defined(EVENTS)
#define NUMBER __HYPERVISOR_event_channel_op
#elif defined(GRANTS)
#define NUMBER __HYPERVISOR_grant_table_op
#elif defined(PHYSDEV)
#define NUMBER __HYPERVISOR_physdev_op
#elif defined(VCPU)
#define NUMBER __HYPERVISOR_vcpu_op
#elif defined(MMUEXT)
#define NUMBER __HYPERVISOR_mmuext_op
#else
#define NUMBER __HYPERVISOR_callback_op
#endif

void kernel_main(void)
{
    static uint64_t argument[64], list[64];
    unsigned long frames[16];

    for (unsigned int i = 0; i < COUNT(frames); i++)
        frames[i] = virt_to_mfn(i & 1 ? alloc_page() : alloc_table());

    for (unsigned int round = 0; round < 60; round++)
        for (unsigned long command = 0; command < 48; command++) {
            unsigned long pointer = (unsigned long)argument;

            for (unsigned int i = 0; i < COUNT(argument); i++) {
                unsigned long choice = random_number();

                argument[i] = choice % 4 == 0 ? random_number() % 16
                              : choice % 4 == 1 ? (unsigned long)list
                              : choice % 4 == 2 ? frames[choice / 4 % COUNT(frames)]
                                                : random_number();
                list[i] = choice & 8 ? random_number() : frames[choice / 16 % COUNT(frames)];
            }
            if (random_number() % 2)
                ((uint16_t *)argument)[random_number() % 16] = DOMID_SELF;
#if defined(VCPU)
            if (command == VCPUOP_down)
                continue;
            hypercall_number(NUMBER, command, random_number() % 2, pointer);
#elif defined(MMUEXT)
            ((uint32_t *)argument)[0] = (uint32_t)command;
            if (command == MMUEXT_NEW_BASEPTR || command == MMUEXT_NEW_USER_BASEPTR)
                continue;
            hypercall_number(NUMBER, pointer, 1 + random_number() % 3, 0, DOMID_SELF);
#else
            hypercall_number(NUMBER, command, pointer, 1 + random_number() % 3);
#endif
            mask_events();
        }
    printk("through\n");
    CHECK(true);
}
