/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* mmu_update, mmuext_op and update_va_mapping: requests that cannot be read; the count of what was
 * done that cannot be written is passed over, as Xen does; masks of vCPUs are EINVAL. */

#include "scenario.h"

void kernel_main(void)
{
    uint8_t *page = alloc_page();
    unsigned long value = frame_of(page, PTE_KERNEL | PTE_NX);
    mmu_update_t request = {.ptr = find_entry((unsigned long)page, 1), .val = value};
    mmuext_op_t flush = {.cmd = MMUEXT_TLB_FLUSH_LOCAL};

    EXPECT_BAD_POINTERS(-XEN_EFAULT, hypercall(mmu_update, bad, 1, NULL, DOMID_SELF));
    EXPECT_BAD_POINTERS(-XEN_EFAULT, hypercall(mmuext_op, bad, 1, NULL, DOMID_SELF));
    for (unsigned int number = 0; number < BAD_POINTERS; number++) {
        void *bad = (void *)bad_pointer(number);

        EXPECT(0, hypercall(mmu_update, &request, 1, bad, DOMID_SELF));
        EXPECT(0, hypercall(mmuext_op, &flush, 1, bad, DOMID_SELF));
        CHECK(mmuext(MMUEXT_TLB_FLUSH_MULTI, 0, (unsigned long)bad) == -XEN_EINVAL);
        CHECK(mmuext(MMUEXT_INVLPG_MULTI, (unsigned long)page, (unsigned long)bad) == -XEN_EINVAL);
    }
}
