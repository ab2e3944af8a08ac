/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* XENMEM_exchange: frames that are not the guest's, in use as tables, mapped; more out than in; orders
 * and counts beyond sense; lists that cannot be read or written. What is refused leaves the frames. */

#include "scenario.h"

static unsigned long in[8], out[8];

static xen_memory_exchange_t make(unsigned int count)
{
    xen_memory_exchange_t exchange = {
        .in = {.nr_extents = count, .domid = DOMID_SELF},
        .out = {.nr_extents = count, .domid = DOMID_SELF},
    };

    set_xen_guest_handle(exchange.in.extent_start, in);
    set_xen_guest_handle(exchange.out.extent_start, out);
    return exchange;
}

void kernel_main(void)
{
    domid_t self = DOMID_SELF;
    long current = memory_op(XENMEM_current_reservation, &self);
    unsigned long pfn = alloc_unmapped_pfn(), mfn = pfn_to_mfn(pfn);
    unsigned long bad[] = {
        0, 2, 0xffff, 0x1000000, ~0ul, start_info->shared_info >> PAGE_SHIFT,
        virt_to_mfn((void *)start_info->pt_base), virt_to_mfn(find_table(VIRT_BASE, 1)),
        virt_to_mfn(kernel_main),
    };
    xen_memory_exchange_t exchange;

    out[0] = pfn;
    for (unsigned int i = 0; i < COUNT(bad); i++) {
        exchange = make(1);
        in[0] = bad[i];
        REFUSED(memory_op(XENMEM_exchange, &exchange));
        EXPECT(0, exchange.nr_exchanged);
    }
    in[0] = mfn;
    for (unsigned int order = 10; order < 70; order += 3) {
        exchange = make(1);
        exchange.in.extent_order = order;
        REFUSED(memory_op(XENMEM_exchange, &exchange));
        exchange = make(1);
        exchange.out.extent_order = order;
        REFUSED(memory_op(XENMEM_exchange, &exchange));
    }
    exchange = make(1);
    exchange.out.nr_extents = 2;
    REFUSED(memory_op(XENMEM_exchange, &exchange));
    exchange = make(1);
    exchange.in.nr_extents = ~0ul;
    REFUSED(memory_op(XENMEM_exchange, &exchange));
    exchange = make(1);
    exchange.nr_exchanged = 5;
    REFUSED(memory_op(XENMEM_exchange, &exchange));
    exchange = make(1);
    exchange.in.domid = 7;
    REFUSED(memory_op(XENMEM_exchange, &exchange));
    exchange = make(1);
    exchange.in.extent_start.p = (void *)UNMAPPED;
    REFUSED(memory_op(XENMEM_exchange, &exchange));
    in[0] = in[1] = mfn; /* the same one twice */
    exchange = make(2);
    out[1] = pfn;
    CHECK(memory_op(XENMEM_exchange, &exchange) <= 0);
    EXPECT(current, memory_op(XENMEM_current_reservation, &self));
}
