/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* update_va_mapping: addresses that have no L1 entry, that are Xen's or not canonical; every flush
 * flag with every kind of mask pointer; other domains. */

#include "scenario.h"

void kernel_main(void)
{
    uint8_t *page = alloc_page();
    unsigned long value = frame_of(page, PTE_KERNEL), mask = 1;
    static const unsigned long bad[] = {
        0x10000000000ul, XEN_PRIVATE, HYPERVISOR_VIRT_START, HYPERVISOR_VIRT_END - PAGE_SIZE,
        NON_CANONICAL, 0x00007ffffffff000ul, 0xffff7ffffffff000ul,
    };

    for (unsigned int i = 0; i < COUNT(bad); i++) {
        REFUSED(hypercall(update_va_mapping, bad[i], value, 0));
        REFUSED(hypercall(update_va_mapping, bad[i], 0, UVMF_INVLPG));
        REFUSED(hypercall(update_va_mapping_otherdomain, bad[i], value, 0, DOMID_SELF));
    }
    for (unsigned long flags = 0; flags < 4; flags++) {
        long result = hypercall(update_va_mapping, page, value, flags);

        CHECK(flags == 3 ? result <= 0 : result == 0);
        EXPECT(0, hypercall(update_va_mapping, page, value, (flags % 3) | UVMF_ALL));
        EXPECT(0, hypercall(update_va_mapping, page, value, (flags % 3) | (unsigned long)&mask));
        for (unsigned int number = 0; number < BAD_POINTERS - 1; number++)
            CHECK(hypercall(update_va_mapping, page, value,
                            (bad_pointer(number) & ~3ul) | (flags % 3)) <= 0);
    }
    REFUSED(hypercall(update_va_mapping_otherdomain, page, value, 0, 77));
    REFUSED(hypercall(update_va_mapping_otherdomain, page, value, 0, DOMID_XEN));
    EXPECT(NO_TRAP, try_write(page, 1));
}
