/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* xen_version writes its answers: to nowhere, to read-only pages, to page tables, and into Xen. */

#include "scenario.h"

static const unsigned int commands[] = {
    XENVER_extraversion, XENVER_compile_info, XENVER_capabilities, XENVER_changeset,
    XENVER_platform_parameters, XENVER_get_features, XENVER_guest_handle, XENVER_commandline,
};

void kernel_main(void)
{
    uint8_t *read_only = alloc_page();
    unsigned long *table = find_table(VIRT_BASE, 1);
    unsigned long entry = table[0];

    make_read_only(read_only);
    for (unsigned int i = 0; i < COUNT(commands); i++) {
        EXPECT_BAD_POINTERS(-XEN_EFAULT, hypercall(xen_version, commands[i], bad));
        EXPECT(-XEN_EFAULT, hypercall(xen_version, commands[i], read_only));
        EXPECT(-XEN_EFAULT, hypercall(xen_version, commands[i], machine_to_phys_mapping));
        /* This one reads from there first, and finds no number of a submap. */
        EXPECT(commands[i] == XENVER_get_features ? -XEN_EINVAL : -XEN_EFAULT,
               hypercall(xen_version, commands[i], table));
    }
    EXPECT(entry, table[0]);
    EXPECT(0, read_only[0]);
}
