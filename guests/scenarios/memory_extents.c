/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Reservations with orders and counts beyond all sense, of other domains, with flags of all kinds: an
 * error or 0, at once. */

#include "scenario.h"

#define MEMOP_EXTENT_SHIFT 6

void kernel_main(void)
{
    static const unsigned int commands[] = {
        XENMEM_increase_reservation, XENMEM_decrease_reservation, XENMEM_populate_physmap,
    };
    static const unsigned int orders[] = {10, 18, 19, 31, 32, 52, 63, 64, 255, ~0u};
    static const unsigned long counts[] = {1, 1ul << 31, 1ul << 32, 1ul << 52, 1ul << 63, ~0ul};
    domid_t self = DOMID_SELF;
    long current = memory_op(XENMEM_current_reservation, &self);
    unsigned long frames[4] = {~0ul, ~0ul, 1ul << 52, 1};

    for (unsigned int i = 0; i < COUNT(commands); i++)
        for (unsigned int j = 0; j < COUNT(orders); j++)
            for (unsigned int k = 0; k < COUNT(counts); k++) {
                xen_memory_reservation_t reservation = {
                    .nr_extents = counts[k], .extent_order = orders[j], .domid = DOMID_SELF,
                };

                set_xen_guest_handle(reservation.extent_start, frames);
                CHECK(memory_op(commands[i], &reservation) <= 0);
                reservation.mem_flags = ~0u;
                CHECK(memory_op(commands[i], &reservation) <= 0);
                reservation.domid = (domid_t)(77 + j);
                CHECK(memory_op(commands[i], &reservation) <= 0);
            }
    EXPECT(current, memory_op(XENMEM_current_reservation, &self));
    /* The command's upper bits say where to begin: beyond the end, and anywhere. */
    for (unsigned long start = 1; start < 1ul << 57; start <<= 4) {
        xen_memory_reservation_t reservation = {.nr_extents = 4, .domid = DOMID_SELF};

        set_xen_guest_handle(reservation.extent_start, frames);
        EXPECT(start, hypercall(memory_op,
                                XENMEM_decrease_reservation | start << MEMOP_EXTENT_SHIFT,
                                &reservation));
    }
}

