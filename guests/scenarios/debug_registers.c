/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* set_debugreg: breakpoints in Xen's area, general detect, I/O breakpoints, reserved bits, registers
 * that do not exist. */

#include "scenario.h"

void kernel_main(void)
{
    for (unsigned int number = 0; number < 4; number++) {
        REFUSED(hypercall(set_debugreg, number, XEN_PRIVATE));
        REFUSED(hypercall(set_debugreg, number, HYPERVISOR_VIRT_START));
        REFUSED(hypercall(set_debugreg, number, NON_CANONICAL));
        EXPECT(0, hypercall(set_debugreg, number, (unsigned long)kernel_main));
        EXPECT((unsigned long)kernel_main, hypercall(get_debugreg, number));
        EXPECT(0, hypercall(set_debugreg, number, 0));
    }
    for (unsigned int number = 8; number < 64; number++) {
        REFUSED(hypercall(set_debugreg, number, 0));
        REFUSED(hypercall(get_debugreg, number));
    }
    REFUSED(hypercall(set_debugreg, 7, 1ul << 13)); /* general detect */
    REFUSED(hypercall(set_debugreg, 7, 2ul << 16 | 1)); /* I/O, without CR4.DE */
    REFUSED(hypercall(set_debugreg, 7, 1ul << 32));
    REFUSED(hypercall(set_debugreg, 6, 1ul << 32));
    EXPECT(0, hypercall(set_debugreg, 7, 0));
    EXPECT(0, hypercall(set_debugreg, 6, 0xffffffff));
    EXPECT(NO_TRAP, try_write(boot_stack, 1));
}
