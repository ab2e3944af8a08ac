/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
// variants: SEED=1, SEED=2, SEED=3, SEED=4, SEED=5, SEED=6
/* Random work on types of frames: a pool of frames is mapped, pinned as tables of each level, linked,
 * written through, used for descriptors, given back and taken again, in any order, mostly with requests
 * that are nearly right. The kernel's own tables are left alone, so it must live to the end, and all of
 * Xen's counts must be right then. */

#include "scenario.h"

#define FRAMES 24

static unsigned long frames[FRAMES], spare;
static unsigned long *pages[FRAMES];

static unsigned long any_frame(void)
{
    return frames[random_number() % FRAMES];
}

static unsigned long any_entry(void)
{
    unsigned long choice = random_number();
    unsigned long flags = choice % 8 < 3 ? PTE_KERNEL : choice % 8 < 6 ? PTE_READ_ONLY : 0;

    if (choice % 61 == 0)
        return random_number();
    if (choice % 31 == 0)
        return (random_number() % 600) << PAGE_SHIFT | PTE_PRESENT;
    if (choice % 29 == 0)
        flags |= PTE_PSE;
    return any_frame() << PAGE_SHIFT | flags | (choice >> 20 & (PTE_USER | PTE_ACCESSED));
}

static unsigned long any_place(void)
{
    return any_frame() << PAGE_SHIFT | (random_number() % 6 * 8);
}

static void exchange_frame(void)
{
    unsigned int number = random_number() % FRAMES;
    unsigned long mfn = frames[number], pfn = spare;
    xen_memory_reservation_t reservation = {.nr_extents = 1, .domid = DOMID_SELF};

    set_xen_guest_handle(reservation.extent_start, &mfn);
    if (memory_op(XENMEM_decrease_reservation, &reservation) != 1)
        return;
    set_xen_guest_handle(reservation.extent_start, &pfn);
    if (memory_op(XENMEM_populate_physmap, &reservation) == 1)
        frames[number] = pfn;
}

static void step(void)
{
    unsigned int number = random_number() % FRAMES;
    mmu_update_t batch[5];
    multicall_entry_t calls[4];
    unsigned long gdt[3];

    switch (random_number() % 12) {
    case 0:
        map(pages[number], any_entry());
        break;
    case 1:
        mmuext(MMUEXT_PIN_L1_TABLE + random_number() % 4, any_frame(), 0);
        break;
    case 2:
        mmuext(MMUEXT_UNPIN_TABLE, any_frame(), 0);
        break;
    case 3: case 4:
        for (unsigned int i = 0; i < COUNT(batch); i++) {
            batch[i].ptr = any_place() | (random_number() % 8 == 0 ? MMU_PT_UPDATE_PRESERVE_AD : 0);
            batch[i].val = any_entry();
        }
        hypercall(mmu_update, batch, 1 + random_number() % COUNT(batch), NULL, DOMID_SELF);
        break;
    case 5:
        try_write(&pages[number][random_number() % 6], any_entry());
        break;
    case 6:
        TRY(asm volatile("lock xchgl %0, (%1)"
                         :
                         : "r"((uint32_t)any_entry()), "r"(&pages[number][random_number() % 6])
                         : "memory"));
        break;
    case 7:
        for (unsigned int i = 0; i < COUNT(gdt); i++)
            gdt[i] = any_frame();
        hypercall(set_gdt, gdt, random_number() % (COUNT(gdt) + 1) * 512);
        break;
    case 8:
        hypercall(update_descriptor, any_place(), any_entry());
        break;
    case 9:
        mmuext(random_number() % 2 ? MMUEXT_CLEAR_PAGE : MMUEXT_COPY_PAGE, any_frame(), any_frame());
        break;
    case 10:
        for (unsigned int i = 0; i < COUNT(calls); i++) {
            calls[i].op = __HYPERVISOR_update_va_mapping;
            calls[i].args[0] = (unsigned long)pages[random_number() % FRAMES];
            calls[i].args[1] = any_entry();
            calls[i].args[2] = random_number() % 3;
        }
        hypercall(multicall, calls, COUNT(calls));
        break;
    default:
        if (random_number() % 4)
            mmuext(MMUEXT_NEW_USER_BASEPTR, random_number() % 2 ? any_frame() : 0, 0);
        else
            exchange_frame();
    }
}

void kernel_main(void)
{
    random_state += SEED * 0x987654321ul;
    if (SEED & 1)
        EXPECT(0, hypercall(vm_assist, VMASST_CMD_enable, VMASST_TYPE_writable_pagetables));
    for (unsigned int i = 0; i < FRAMES; i++) {
        pages[i] = alloc_page();
        frames[i] = virt_to_mfn(pages[i]);
    }
    spare = start_info->nr_pages + 9;
    for (unsigned int i = 0; i < 4000; i++)
        step();
    CHECK(hypercall(xen_version, XENVER_version, NULL) > 0);
}
