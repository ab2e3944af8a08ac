/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* The user page table is a table like others: the kernel cannot map it writable, free it or make it
 * something else while a vCPU has it, and a switch to none takes the programs away. */

#include "scenario.h"

USER_CODE static void user(void)
{
    user_syscall(7);
}

void kernel_main(void)
{
    uint8_t *page = alloc_page();

    EXPECT(TRAP_SYSCALL, run_user(user, 0));
    REFUSED(map(page, user_l4_mfn << PAGE_SHIFT | PTE_KERNEL));
    EXPECT(0, mmuext(MMUEXT_UNPIN_TABLE, user_l4_mfn, 0));
    REFUSED(map(page, user_l4_mfn << PAGE_SHIFT | PTE_KERNEL));
    REFUSED(mmuext(MMUEXT_PIN_L1_TABLE, user_l4_mfn, 0));
    EXPECT(TRAP_SYSCALL, run_user(user, 0));
    EXPECT(0, mmuext(MMUEXT_NEW_USER_BASEPTR, 0, 0));
    EXPECT(0, map(page, user_l4_mfn << PAGE_SHIFT | PTE_KERNEL));
    EXPECT(NO_TRAP, try_write(page, 0));
    REFUSED(mmuext(MMUEXT_NEW_USER_BASEPTR, user_l4_mfn, 0)); /* it is mapped writable */
}
