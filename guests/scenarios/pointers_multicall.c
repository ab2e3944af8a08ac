/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* multicall: a list that cannot be read, one that ends in a hole, one whose results cannot be
 * written. Those before the hole have been done. */

#include "scenario.h"

void kernel_main(void)
{
    multicall_entry_t *calls = (void *)page_before_hole();
    unsigned int last = PAGE_SIZE / sizeof(*calls);
    multicall_entry_t *read_only = alloc_page();

    EXPECT_BAD_POINTERS(-XEN_EFAULT, hypercall(multicall, bad, 1));
    for (unsigned int i = 0; i < last; i++) {
        calls[i].op = __HYPERVISOR_xen_version;
        calls[i].args[0] = XENVER_version;
        calls[i].result = 1;
    }
    EXPECT(-XEN_EFAULT, hypercall(multicall, calls, last + 1));
    EXPECT(4, calls[0].result >> 16);
    EXPECT(4, calls[last - 1].result >> 16);

    read_only[0].op = __HYPERVISOR_xen_version;
    make_read_only(read_only);
    EXPECT(-XEN_EFAULT, hypercall(multicall, read_only, 1));
    EXPECT(0, read_only[0].result);
    EXPECT(0, hypercall(multicall, NULL, 0));
}
