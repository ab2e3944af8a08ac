/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* memory_op: the argument itself, and the lists that it points to. Reservations tell no error but the
 * number of extents done, here none. */

#include "scenario.h"

void kernel_main(void)
{
    static const unsigned int commands[] = {
        XENMEM_exchange, XENMEM_current_reservation, XENMEM_maximum_reservation,
        XENMEM_maximum_gpfn, XENMEM_machphys_mfn_list, XENMEM_machphys_mapping, XENMEM_memory_map,
        XENMEM_add_to_physmap, XENMEM_remove_from_physmap,
    };
    domid_t self = DOMID_SELF;
    long before = memory_op(XENMEM_current_reservation, &self);

    for (unsigned int i = 0; i < COUNT(commands); i++)
        EXPECT_BAD_POINTERS(-XEN_EFAULT, memory_op(commands[i], bad));
    EXPECT_BAD_POINTERS(0, memory_op(XENMEM_increase_reservation, bad));
    EXPECT_BAD_POINTERS(0, memory_op(XENMEM_decrease_reservation, bad));
    EXPECT_BAD_POINTERS(0, memory_op(XENMEM_populate_physmap, bad));
    for (unsigned int number = 0; number < BAD_POINTERS; number++) {
        xen_memory_reservation_t reservation = {.nr_extents = 4, .domid = DOMID_SELF};

        if (number == 7)
            continue;
        reservation.extent_start.p = (void *)bad_pointer(number);
        CHECK(memory_op(XENMEM_decrease_reservation, &reservation) <= 0);
        CHECK(memory_op(XENMEM_populate_physmap, &reservation) <= 0);
    }
    EXPECT(before, memory_op(XENMEM_current_reservation, &self));
}
