/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Batches as long as a kernel can make them: one page of requests, mapped at 512 addresses in a row.
 * They are done to the last one, whatever comes in between, and timers ring during them. */

#include "scenario.h"

#define WINDOW (VIRT_BASE + 0x10000000ul)

static volatile unsigned int rings;

static void on_timer(evtchn_port_t port)
{
    rings++;
    hypercall(set_timer_op, system_time() + 1000000);
}

static void map_window(void *page)
{
    unsigned long *table = alloc_page();

    for (unsigned int i = 0; i < 512; i++)
        table[i] = frame_of(page, PTE_KERNEL | PTE_NX);
    make_read_only(table);
    EXPECT(0, write_entry(find_entry(WINDOW, 2), frame_of(table, PTE_KERNEL)));
    EXPECT(0, mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0));
}

void kernel_main(void)
{
    evtchn_bind_virq_t virq = {.virq = VIRQ_TIMER, .vcpu = 0};
    uint8_t *target = alloc_page(), *page = alloc_page();
    unsigned long entry = find_entry((unsigned long)target, 1);
    mmu_update_t *requests = (void *)page;
    multicall_entry_t *calls = (void *)page;
    unsigned int done = 0, count;

    map_window(page);
    EXPECT(0, event_op(EVTCHNOP_bind_virq, &virq));
    event_hook = on_timer;
    memset((void *)shared_info->evtchn_mask, 0, sizeof(shared_info->evtchn_mask));
    unmask_events();
    EXPECT(0, hypercall(set_timer_op, system_time() + 1000000));

    count = 30000;
    for (unsigned int i = 0; i < PAGE_SIZE / sizeof(*requests); i++) {
        requests[i].ptr = entry;
        requests[i].val = frame_of(target, i & 1 ? PTE_KERNEL : PTE_READ_ONLY);
    }
    EXPECT(0, hypercall(mmu_update, WINDOW, count, &done, DOMID_SELF));
    EXPECT(count, done);
    memset(page, 0, PAGE_SIZE);
    count = 512 * PAGE_SIZE / sizeof(*calls);
    for (unsigned int i = 0; i < PAGE_SIZE / sizeof(*calls); i++) {
        calls[i].op = __HYPERVISOR_xen_version;
        calls[i].args[0] = XENVER_pagesize;
    }
    EXPECT(0, hypercall(multicall, WINDOW, count));
    EXPECT(PAGE_SIZE, calls[0].result);
    EXPECT(-XEN_EFAULT, hypercall(multicall, WINDOW, count + 1));
    CHECK(rings > 0);
}
