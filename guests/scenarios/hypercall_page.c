/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* The hypercall page: Xen fills it once, and it is the guest's afterwards. The guest overwrites it, calls
 * stubs in their middle and beyond the last, maps it elsewhere. */

#include "scenario.h"

static long call_stub(unsigned int number, unsigned long a, unsigned long b)
{
    unsigned long stub = (unsigned long)hypercall_page + number * 32;
    long result;

    asm volatile("call *%1"
                 : "=a"(result), "+b"(stub), "+D"(a), "+S"(b)
                 :
                 : "rcx", "rdx", "r8", "r9", "r10", "r11", "memory");
    return result;
}

void kernel_main(void)
{
    uint8_t *copy = alloc_page();

    EXPECT(4, call_stub(__HYPERVISOR_xen_version, XENVER_version, 0) >> 16);
    EXPECT(-XEN_ENOSYS, call_stub(60, 0, 0));
    memcpy(copy, hypercall_page, PAGE_SIZE);
    EXPECT(0, map(copy, frame_of(copy, PTE_KERNEL)));
    memset(hypercall_page, 0xcc, PAGE_SIZE);
    EXPECT(TRAP_INT3, TRY(call_stub(__HYPERVISOR_xen_version, XENVER_version, 0)));
    memcpy(hypercall_page, copy, PAGE_SIZE);
    EXPECT(4, call_stub(__HYPERVISOR_xen_version, XENVER_version, 0) >> 16);
}
