/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* All memory asked for, by populate_physmap and increase_reservation: it ends at the maximum with the
 * number of extents that were possible; what was given back before can be had again, and nothing more. */

#include "scenario.h"

void kernel_main(void)
{
    static unsigned long frames[600];
    domid_t self = DOMID_SELF;
    long current = memory_op(XENMEM_current_reservation, &self);
    long maximum = memory_op(XENMEM_maximum_reservation, &self);
    xen_memory_reservation_t reservation = {.nr_extents = 600, .domid = DOMID_SELF};
    unsigned int count = 300;

    CHECK(maximum >= current);
    set_xen_guest_handle(reservation.extent_start, frames);
    for (unsigned int i = 0; i < count; i++)
        frames[i] = pfn_to_mfn(alloc_unmapped_pfn());
    reservation.nr_extents = count;
    EXPECT(count, memory_op(XENMEM_decrease_reservation, &reservation));
    EXPECT(current - count, memory_op(XENMEM_current_reservation, &self));
    EXPECT(0, memory_op(XENMEM_decrease_reservation, &reservation));
    for (unsigned int i = 0; i < 600; i++)
        frames[i] = 0x100000 + i;
    reservation.nr_extents = 600;
    EXPECT(maximum - current + count, memory_op(XENMEM_populate_physmap, &reservation));
    EXPECT(0, memory_op(XENMEM_populate_physmap, &reservation));
    EXPECT(0, memory_op(XENMEM_increase_reservation, &reservation));
    EXPECT(maximum, memory_op(XENMEM_current_reservation, &self));
    for (unsigned int i = 0; i < count; i++)
        CHECK(machine_to_phys_mapping[frames[i]] == 0x100000 + i);
}
