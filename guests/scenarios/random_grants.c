/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
// variants: SEED=1, SEED=2, SEED=3, SEED=4
/* Random work on grants to itself: entries written at any moment, mapped at any place, unmapped by any
 * handle, copied, the version changed, while the granted frames are pinned, mapped and given back. What
 * is still mapped at the end is taken back with the domain, and all counts are right. */

#include "scenario.h"

#define MYSELF 1
#define FRAMES 12
#define REFS 24

static unsigned long frames[FRAMES], *pages[FRAMES], *table, *l1;

static unsigned long any_frame(void)
{
    return random_number() % 40 ? frames[random_number() % FRAMES] : random_number() % 0x20000;
}

static unsigned long any_address(void)
{
    unsigned long *page = pages[random_number() % FRAMES];

    switch (random_number() % 8) {
    case 0:
        return bad_pointer((unsigned int)(random_number() % BAD_POINTERS));
    case 1:
        return entry_in(l1, random_number() % 8);
    default:
        return (unsigned long)page;
    }
}

static unsigned int any_flags(void)
{
    return (unsigned int)(random_number() % 4 ? GNTMAP_host_map | (random_number() % 4 ? 0 : GNTMAP_readonly)
                                              : random_number() % 64);
}

static void write_entries(void)
{
    for (unsigned int i = 0; i < REFS; i++) {
        unsigned long flags = random_number() % 4 ? GTF_permit_access : random_number() % 16;

        if (random_number() % 4)
            continue;
        if (random_number() % 3 == 0)
            flags |= GTF_readonly;
        /* The form of version 1; as version 2 it is nonsense. */
        *(volatile unsigned long *)&table[8 + i] = any_frame() << 32 | MYSELF << 16 | flags;
    }
}

static void step(void)
{
    gnttab_map_grant_ref_t map_op = {
        .host_addr = any_address(), .flags = any_flags(),
        .ref = (grant_ref_t)(random_number() % (REFS + 10)), .dom = MYSELF,
    };
    gnttab_unmap_grant_ref_t unmap = {
        .host_addr = any_address(), .handle = (grant_handle_t)(random_number() % 40),
    };
    gnttab_unmap_and_replace_t replace = {
        .host_addr = any_address(), .new_addr = any_address(), .handle = unmap.handle,
    };
    gnttab_copy_t copy = {.len = (uint16_t)(random_number() % 64), .flags = random_number() % 4};
    gnttab_set_version_t version = {.version = 1 + random_number() % 2};
    gnttab_swap_grant_ref_t swap = {
        .ref_a = (grant_ref_t)(random_number() % REFS), .ref_b = map_op.ref,
    };

    switch (random_number() % 16) {
    case 0: case 1: case 2: case 3:
        hypercall(grant_table_op, GNTTABOP_map_grant_ref, &map_op, 1);
        break;
    case 4: case 5: case 6: case 7:
        /* Of the right address only now and then; try all. */
        for (unsigned int i = 0; i < FRAMES; i++) {
            unmap.host_addr = (unsigned long)pages[i];
            hypercall(grant_table_op, GNTTABOP_unmap_grant_ref, &unmap, 1);
        }
        break;
    case 8:
        hypercall(grant_table_op, GNTTABOP_unmap_and_replace, &replace, 1);
        break;
    case 9:
        copy.source.domid = copy.dest.domid = DOMID_SELF;
        copy.source.u.ref = copy.flags & GNTCOPY_source_gref ? map_op.ref : (uint32_t)any_frame();
        copy.dest.u.ref = copy.flags & GNTCOPY_dest_gref ? map_op.ref : (uint32_t)any_frame();
        hypercall(grant_table_op, GNTTABOP_copy, &copy, 1);
        break;
    case 10:
        if (random_number() % 8 == 0)
            hypercall(grant_table_op, GNTTABOP_set_version, &version, 1);
        break;
    case 11:
        hypercall(grant_table_op, GNTTABOP_swap_grant_ref, &swap, 1);
        break;
    case 12:
        map(pages[random_number() % FRAMES], any_frame() << PAGE_SHIFT |
                                                 (random_number() % 2 ? PTE_KERNEL : PTE_READ_ONLY));
        break;
    case 13:
        mmuext(MMUEXT_PIN_L1_TABLE + random_number() % 4, any_frame(), 0);
        break;
    case 14:
        mmuext(MMUEXT_UNPIN_TABLE, any_frame(), 0);
        break;
    default:
        write_entries();
    }
}

void kernel_main(void)
{
    gnttab_setup_table_t setup = {.dom = DOMID_SELF, .nr_frames = 1};
    unsigned long frame = 0;

    random_state += SEED * 0x13571357ul;
    set_xen_guest_handle(setup.frame_list, &frame);
    EXPECT(0, hypercall(grant_table_op, GNTTABOP_setup_table, &setup, 1));
    table = alloc_page();
    EXPECT(0, map(table, frame << PAGE_SHIFT | PTE_KERNEL));
    l1 = alloc_table();
    EXPECT(0, mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(l1), 0));
    for (unsigned int i = 0; i < FRAMES; i++) {
        pages[i] = alloc_page();
        frames[i] = virt_to_mfn(pages[i]);
    }
    write_entries();
    for (unsigned int i = 0; i < 3000; i++)
        step();
    CHECK(hypercall(xen_version, XENVER_version, NULL) > 0);
}
