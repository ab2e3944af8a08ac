/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A kernel that ends as its command line says, at once, or lives on: with "ticks" it prints the time
 * every 20 ms, with "debug" each debug event that Xen sends, with "busy" it computes, with "echo" it
 * repeats each line that is typed on its console and ends as that says, and else it sleeps. */

#include "runtime.h"
#include <xen/io/console.h>

static bool has_word(const char *text, const char *word)
{
    for (const char *at = text; *at; at++) {
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

static void end_as_asked(const char *text)
{
    if (has_word(text, "poweroff"))
        shutdown(SHUTDOWN_poweroff);
    if (has_word(text, "reboot"))
        shutdown(SHUTDOWN_reboot);
    if (has_word(text, "crash"))
        shutdown(SHUTDOWN_crash);
    if (has_word(text, "watchdog"))
        shutdown(SHUTDOWN_watchdog);
}

static char read_console(void)
{
    volatile struct xencons_interface *ring = mfn_to_virt(start_info->console.domU.mfn);
    evtchn_send_t event = {.port = start_info->console.domU.evtchn};
    char c;

    mask_events(); /* an event between the look and the sleep ends the sleep */
    while (ring->in_cons == ring->in_prod) {
        hypercall(sched_op, SCHEDOP_block, NULL);
        mask_events();
    }
    c = ring->in[MASK_XENCONS_IDX(ring->in_cons, ring->in)];
    ring->in_cons++;
    hypercall(event_channel_op, EVTCHNOP_send, &event); /* there is room again */
    return c;
}

static void echo(void)
{
    char line[128];
    size_t length = 0;

    shared_info->evtchn_mask[0] &= ~(1ul << start_info->console.domU.evtchn);
    for (;;) {
        char c = read_console();

        if (c != '\n') {
            if (length < sizeof(line) - 1)
                line[length++] = c;
            continue;
        }
        line[length] = 0;
        length = 0;
        printk("heard: %s\n", line);
        end_as_asked(line);
    }
}

static void wait_for_debug_events(void)
{
    evtchn_bind_virq_t debug = {.virq = VIRQ_DEBUG, .vcpu = 0};

    hypercall(event_channel_op, EVTCHNOP_bind_virq, &debug);
    shared_info->evtchn_mask[0] &= ~(1ul << debug.port);
    for (unsigned int count = 0;; count++) {
        printk("waiting for debug event %u on port %u\n", count, debug.port);
        while (event_counts[debug.port] <= count)
            hypercall(sched_op, SCHEDOP_block, NULL);
    }
}

void kernel_main(void)
{
    const char *words = (const char *)start_info->cmd_line;

    printk("begun: %s\n", words);
    end_as_asked(words);
    if (has_word(words, "echo"))
        echo();
    if (has_word(words, "ticks"))
        tick();
    if (has_word(words, "debug"))
        wait_for_debug_events();
    while (has_word(words, "busy"))
        asm volatile("" ::: "memory");
    for (;;)
        hypercall(sched_op, SCHEDOP_block, NULL);
}
