/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A paravirtual Xen kernel: says hello, asks for its features, waits 10 ms, and powers off. */

#include "runtime.h"

void kernel_main(void)
{
    xen_feature_info_t features = {.submap_idx = 0};
    evtchn_bind_virq_t timer = {.virq = VIRQ_TIMER, .vcpu = 0};
    vcpu_set_singleshot_timer_t alarm = {.timeout_abs_ns = 0};
    long version = hypercall(xen_version, XENVER_version, NULL);

    printk("hello from a kernel on Xen %ld.%ld\n", version >> 16, version & 0xffff);

    hypercall(xen_version, XENVER_get_features, &features);
    printk("page tables: %s\n",
           features.submap & 1u << XENFEAT_writable_page_tables ? "mine" : "Xen's");

    hypercall(event_channel_op, EVTCHNOP_bind_virq, &timer);
    shared_info->evtchn_mask[0] &= ~(1ul << timer.port);
    alarm.timeout_abs_ns = system_time() + 10 * 1000 * 1000;
    hypercall(vcpu_op, VCPUOP_set_singleshot_timer, 0, &alarm);
    while (!event_counts[timer.port])
        hypercall(sched_op, SCHEDOP_block, NULL);

    printk("the timer rang on port %u\n", timer.port);
    shutdown(SHUTDOWN_poweroff);
}
