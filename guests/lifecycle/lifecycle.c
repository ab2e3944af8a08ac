/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A kernel that ends as its command line says, at once, or lives on: with "ticks" it prints the time
 * every 20 ms, with "busy" it computes, and else it sleeps. */

#include "runtime.h"

static bool is_asked(const char *word)
{
    for (const char *at = (const char *)start_info->cmd_line; *at; at++) {
        size_t length = 0;

        while (word[length] && at[length] == word[length])
            length++;
        if (!word[length])
            return true;
    }
    return false;
}

static void tick(void)
{
    evtchn_bind_virq_t timer = {.virq = VIRQ_TIMER, .vcpu = 0};
    vcpu_set_singleshot_timer_t alarm = {.timeout_abs_ns = 0};

    hypercall(event_channel_op, EVTCHNOP_bind_virq, &timer);
    shared_info->evtchn_mask[0] &= ~(1ul << timer.port);
    for (unsigned int count = 0;; count++) {
        printk("tick %u\n", count);
        alarm.timeout_abs_ns = system_time() + 20 * 1000 * 1000;
        hypercall(vcpu_op, VCPUOP_set_singleshot_timer, 0, &alarm);
        while (event_counts[timer.port] <= count)
            hypercall(sched_op, SCHEDOP_block, NULL);
    }
}

void kernel_main(void)
{
    printk("begun: %s\n", (const char *)start_info->cmd_line);
    if (is_asked("poweroff"))
        shutdown(SHUTDOWN_poweroff);
    if (is_asked("reboot"))
        shutdown(SHUTDOWN_reboot);
    if (is_asked("crash"))
        shutdown(SHUTDOWN_crash);
    if (is_asked("watchdog"))
        shutdown(SHUTDOWN_watchdog);
    if (is_asked("ticks"))
        tick();
    while (is_asked("busy"))
        asm volatile("" ::: "memory");
    for (;;)
        hypercall(sched_op, SCHEDOP_block, NULL);
}
