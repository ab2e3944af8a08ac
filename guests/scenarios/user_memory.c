/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* What a program can see: its own pages. Not its kernel's, nor the M2P, nor anything of Xen's, though
 * its L4 table has Xen's slots too. */

#include "scenario.h"

USER_CODE static void peek(void)
{
    unsigned long address;

    asm volatile("" : "=D"(address));
    *(volatile uint8_t *)address;
    user_syscall(99);
}

USER_CODE static void poke(void)
{
    unsigned long address;

    asm volatile("" : "=D"(address));
    *(volatile uint8_t *)address = 1;
    user_syscall(99);
}

void kernel_main(void)
{
    unsigned long addresses[] = {
        (unsigned long)kernel_main, (unsigned long)start_info, (unsigned long)shared_info,
        start_info->pt_base, HYPERVISOR_VIRT_START, HYPERVISOR_VIRT_START + 0x80000,
        XEN_PRIVATE, XEN_PRIVATE + 14 * PAGE_SIZE, HYPERVISOR_VIRT_END - 8, UNMAPPED, 0,
        (unsigned long)hypercall_page, (unsigned long)boot_stack,
    };

    for (unsigned int i = 0; i < COUNT(addresses); i++) {
        EXPECT(TRAP_PAGE_FAULT, run_user(peek, addresses[i]));
        EXPECT(addresses[i], last_cr2);
        EXPECT(PTE_USER, last_trap.error & ~1ul);
        EXPECT(TRAP_PAGE_FAULT, run_user(poke, addresses[i]));
        EXPECT(PTE_USER | 2, last_trap.error & ~1ul);
        EXPECT(TRAP_PAGE_FAULT, run_user((void (*)(void))addresses[i], 0));
    }
    EXPECT(TRAP_GENERAL_PROTECTION, run_user(peek, NON_CANONICAL));
    EXPECT(TRAP_PAGE_FAULT, run_user(poke, (unsigned long)peek)); /* its code is read-only */
    EXPECT(TRAP_SYSCALL, run_user(poke, (unsigned long)user_stack));
}
