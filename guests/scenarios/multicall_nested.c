/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* multicall in multicall is refused; iret, block and yield in a batch must not confuse it; unknown
 * numbers and wild ones fail alone. */

#include "scenario.h"

void kernel_main(void)
{
    multicall_entry_t calls[8] = {0};
    multicall_entry_t inner = {.op = __HYPERVISOR_xen_version};

    calls[0].op = __HYPERVISOR_multicall;
    calls[0].args[0] = (unsigned long)&inner;
    calls[0].args[1] = 1;
    calls[1].op = __HYPERVISOR_multicall;
    calls[1].args[0] = (unsigned long)calls;
    calls[1].args[1] = 8;
    calls[2].op = 0xffffffff;
    calls[3].op = 1ul << 32 | __HYPERVISOR_xen_version;
    calls[4].op = __HYPERVISOR_sched_op;
    calls[4].args[0] = SCHEDOP_yield;
    calls[5].op = ~0ul;
    calls[6].op = 63;
    calls[7].op = __HYPERVISOR_xen_version;
    EXPECT(0, hypercall(multicall, calls, 8));
    EXPECT(-XEN_EINVAL, calls[0].result);
    EXPECT(-XEN_EINVAL, calls[1].result);
    EXPECT(-XEN_ENOSYS, calls[2].result);
    EXPECT(0, calls[4].result);
    EXPECT(-XEN_ENOSYS, calls[5].result);
    EXPECT(-XEN_ENOSYS, calls[6].result);
    EXPECT(4, calls[7].result >> 16);
    EXPECT(0, inner.result);
    calls[0].op = __HYPERVISOR_xen_version;
    calls[0].args[0] = XENVER_version;
    EXPECT(0, hypercall(multicall, calls, 1));
    EXPECT(4, calls[0].result >> 16);
}
