/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* iret to addresses that are not canonical, in Xen's area, or not mapped, within the kernel: the guest
 * gets a fault, its page fault or failsafe handler among them, and goes on. */

#include "scenario.h"

static void return_to(unsigned long rip)
{
    struct trap_frame frame = {
        .rip = rip, .cs = FLAT_KERNEL_CS & ~3, .rflags = 0x202, .ss = FLAT_KERNEL_SS,
    };
    frame.rsp = (unsigned long)&frame - 512;
    resume(&frame);
}

void kernel_main(void)
{
    static const unsigned long bad[] = {
        NON_CANONICAL, 0x0000800000000000ul, 1ul << 63, XEN_PRIVATE, HYPERVISOR_VIRT_START,
        UNMAPPED, 0, ~0ul,
    };

    for (unsigned int i = 0; i < COUNT(bad); i++) {
        int vector = TRY(return_to(bad[i]));

        CHECK(vector == TRAP_PAGE_FAULT || vector == TRAP_GENERAL_PROTECTION ||
              vector == TRAP_FAILSAFE);
    }
}
