/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: any
// vcpus: 2
/* The last vCPU takes itself down: nobody is left who could do anything, and Xen shuts the domain down.
 * It must not be run for ever. */

#include "scenario.h"

void kernel_main(void)
{
    hypercall(vcpu_op, VCPUOP_down, 0, NULL);
    fail("still here");
}
