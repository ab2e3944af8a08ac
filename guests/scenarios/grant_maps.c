/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* The guest grants pages to itself and maps them. A grant of a page table can be mapped, but not
 * writable; what is mapped writable by a grant cannot become a table, and an entry that a grant has
 * made goes by unmapping alone. Wrong handles, addresses and ends are refused. */

#include "scenario.h"

#define MYSELF 1

static grant_entry_v1_t *table;

static void grant(unsigned int ref, unsigned long mfn, unsigned int flags)
{
    table[ref].frame = (uint32_t)mfn;
    table[ref].domid = MYSELF;
    *(volatile uint16_t *)&table[ref].flags = (uint16_t)(GTF_permit_access | flags);
}

static int map_grant(unsigned int ref, void *address, unsigned int flags, grant_handle_t *handle)
{
    gnttab_map_grant_ref_t operation = {
        .host_addr = (unsigned long)address, .flags = flags, .ref = ref, .dom = MYSELF,
    };

    if (hypercall(grant_table_op, GNTTABOP_map_grant_ref, &operation, 1))
        fail("map_grant_ref");
    *handle = operation.handle;
    return operation.status;
}

static int unmap_grant(void *address, grant_handle_t handle)
{
    gnttab_unmap_grant_ref_t operation = {.host_addr = (unsigned long)address, .handle = handle};

    if (hypercall(grant_table_op, GNTTABOP_unmap_grant_ref, &operation, 1))
        fail("unmap_grant_ref");
    return operation.status;
}

void kernel_main(void)
{
    unsigned long frame = 0, *page = alloc_page(), *target = alloc_page(), *l1 = alloc_table();
    gnttab_setup_table_t setup = {.dom = DOMID_SELF, .nr_frames = 1};
    grant_handle_t handle, second;

    set_xen_guest_handle(setup.frame_list, &frame);
    EXPECT(0, hypercall(grant_table_op, GNTTABOP_setup_table, &setup, 1));
    table = alloc_page();
    EXPECT(0, map(table, frame << PAGE_SHIFT | PTE_KERNEL));

    /* Not granted, to somebody else, of Xen's frames, of frames that are not there. */
    REFUSED(map_grant(20, target, GNTMAP_host_map, &handle));
    grant(20, virt_to_mfn(page), 0);
    table[20].domid = 7;
    REFUSED(map_grant(20, target, GNTMAP_host_map, &handle));
    grant(20, 5, 0);
    REFUSED(map_grant(20, target, GNTMAP_host_map, &handle));
    grant(20, 0xfffffff, 0);
    REFUSED(map_grant(20, target, GNTMAP_host_map, &handle));
    grant(20, virt_to_mfn(page), GTF_readonly);
    REFUSED(map_grant(20, target, GNTMAP_host_map, &handle));
    EXPECT(0, map_grant(20, target, GNTMAP_host_map | GNTMAP_readonly, &handle));
    EXPECT(0, mmuext(MMUEXT_INVLPG_LOCAL, (unsigned long)target, 0)); /* what was there before */
    EXPECT(NO_TRAP, try_read(target));
    EXPECT(TRAP_PAGE_FAULT, try_write(target, 1));
    REFUSED(unmap_grant(page, handle));
    REFUSED(unmap_grant(target, handle + 1));
    EXPECT(0, unmap_grant(target, handle));
    REFUSED(unmap_grant(target, handle));
    EXPECT(TRAP_PAGE_FAULT, try_read(target));

    /* Tables. */
    EXPECT(0, mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(l1), 0));
    grant(21, virt_to_mfn(l1), 0);
    REFUSED(map_grant(21, target, GNTMAP_host_map, &handle));
    grant(22, start_info->shared_info >> PAGE_SHIFT, 0);
    CHECK(map_grant(22, target, GNTMAP_host_map, &second) <= 0);
    EXPECT(0, map(target, 0));

    /* Writable by a grant: no table meanwhile, whatever other mappings it has. */
    grant(23, virt_to_mfn(page), 0);
    EXPECT(0, map_grant(23, target, GNTMAP_host_map, &handle));
    EXPECT(NO_TRAP, try_write(target, 42));
    EXPECT(42, page[0]);
    make_read_only(page);
    REFUSED(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(page), 0));
    EXPECT(0, unmap_grant(target, handle));
    make_writable(page);
    page[0] = 0;
    make_read_only(page);
    EXPECT(0, mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0));
    EXPECT(0, mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(page), 0));

    /* Addresses that are no place for a mapping. */
    page = alloc_page();
    grant(24, virt_to_mfn(page), 0);
    REFUSED(map_grant(24, (void *)UNMAPPED, GNTMAP_host_map, &handle));
    REFUSED(map_grant(24, (void *)machine_to_phys_mapping, GNTMAP_host_map, &handle));
    REFUSED(map_grant(24, (void *)XEN_PRIVATE, GNTMAP_host_map, &handle));
    REFUSED(map_grant(24, (void *)NON_CANONICAL, GNTMAP_host_map, &handle));
    REFUSED(map_grant(24, (void *)entry_in(l1, 1), 0, &handle));
    for (unsigned long address = 0; address < 0x10000; address += 0xfff8)
        REFUSED(map_grant(24, (void *)address, GNTMAP_host_map | GNTMAP_contains_pte, &handle));
    EXPECT(0, map_grant(24, (void *)entry_in(l1, 3), GNTMAP_host_map | GNTMAP_contains_pte, &handle));
    EXPECT(frame_of(page, 0), l1[3] & PTE_FRAME);
    REFUSED(unmap_grant((void *)entry_in(l1, 4), handle));
    EXPECT(0, unmap_grant((void *)entry_in(l1, 3), handle));
    EXPECT(0, l1[3] & PTE_PRESENT);
}
