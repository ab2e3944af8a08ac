/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A kernel that always computes, and tells each 100 ms how long its vCPU has run and was kept from
 * running, as Xen counts it for the guest. */

#include "runtime.h"

void kernel_main(void)
{
    uint64_t next = system_time();

    for (;;) {
        vcpu_runstate_info_t state;

        while (system_time() < next)
            ;
        next += 100 * 1000 * 1000;
        hypercall(vcpu_op, VCPUOP_get_runstate_info, 0, &state);
        printk("ran %lu waited %lu other %lu\n", state.time[RUNSTATE_running],
               state.time[RUNSTATE_runnable],
               state.time[RUNSTATE_blocked] + state.time[RUNSTATE_offline]);
    }
}
