/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Counts with which a list would reach over the end of the address space and begin again at 0, or
 * through Xen's area. Each ends with an error soon. */

#include "scenario.h"

void kernel_main(void)
{
    static const unsigned long starts[] = {
        ~0ul - 4095, ~0ul - 15, HYPERVISOR_VIRT_START - PAGE_SIZE, 0x00007ffffffff000ul,
        HYPERVISOR_VIRT_END - PAGE_SIZE,
    };
    static const unsigned long counts[] = {0x7fffffff, 0x10000000, 0xffffff, 0x20000};

    for (unsigned int i = 0; i < COUNT(starts); i++)
        for (unsigned int j = 0; j < COUNT(counts); j++) {
            void *start = (void *)starts[i];

            CHECK(hypercall(mmu_update, start, counts[j], NULL, DOMID_SELF) < 0);
            CHECK(hypercall(mmuext_op, start, counts[j], NULL, DOMID_SELF) < 0);
            CHECK(hypercall(multicall, start, counts[j]) < 0);
            CHECK(hypercall(console_io, CONSOLEIO_write, counts[j], start) < 0);
            CHECK(hypercall(grant_table_op, GNTTABOP_copy, start, counts[j]) < 0);
        }
}
