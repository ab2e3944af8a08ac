/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Hypercalls for domain 0, for other kinds of guests, of other architectures, and numbers that mean
 * nothing: each is refused, with all kinds of arguments. */

#include "scenario.h"

void kernel_main(void)
{
    static const unsigned int numbers[] = {
        __HYPERVISOR_platform_op, __HYPERVISOR_xsm_op, __HYPERVISOR_sysctl, __HYPERVISOR_domctl,
        __HYPERVISOR_kexec_op, __HYPERVISOR_tmem_op, __HYPERVISOR_hvm_op, __HYPERVISOR_xenoprof_op,
        __HYPERVISOR_dm_op, __HYPERVISOR_hypfs_op, 11, 43, 44, 45, 46, 47, 49, 55, 56, 62, 63,
        64, 65, 1000, 0x7fffffff,
    };
    uint32_t *page = alloc_page();

    for (unsigned int i = 0; i < COUNT(numbers); i++) {
        for (unsigned int j = 0; j < 512; j++)
            page[j] = (uint32_t)random_number();
        REFUSED(hypercall_number(numbers[i], 0, 0, 0, 0, 0));
        REFUSED(hypercall_number(numbers[i], page, page, page, page, page));
        REFUSED(hypercall_number(numbers[i], 1, page, 8, page, 1));
        REFUSED(hypercall_number(numbers[i], ~0ul, ~0ul, ~0ul, ~0ul, ~0ul));
    }
    REFUSED(hypercall_number(1ul << 32, 0));
    REFUSED(hypercall_number(~0ul, 0));
}
