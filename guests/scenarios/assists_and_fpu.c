/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* vm_assist with every command and type, and the task-switched flag around FPU instructions. */

#include "scenario.h"

void kernel_main(void)
{
    for (unsigned int command = 2; command < 10; command++)
        for (unsigned int type = 0; type < 40; type++)
            REFUSED(hypercall(vm_assist, command, type));
    for (unsigned int type = 6; type < 70; type++)
        if (type != VMASST_TYPE_m2p_strict)
            REFUSED(hypercall(vm_assist, VMASST_CMD_enable, type));
    REFUSED(hypercall(vm_assist, VMASST_CMD_enable, 0x80000000));
    EXPECT(0, hypercall(fpu_taskswitch, 1));
    EXPECT(TRAP_NO_DEVICE, TRY(asm volatile("fninit")));
    EXPECT(NO_TRAP, TRY(asm volatile("fninit"))); /* Xen has cleared it */
    EXPECT(0, hypercall(fpu_taskswitch, ~0ul));
    EXPECT(0, hypercall(fpu_taskswitch, 0));
    EXPECT(NO_TRAP, TRY(asm volatile("fninit")));
}
