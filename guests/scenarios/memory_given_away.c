/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* decrease_reservation of frames that are not the guest's: Xen's, shared ones, given back already, far
 * beyond. None counts, and the list ends there. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long bad[] = {0, 1, 2, 511, 512, 0xffff, 0x1000000, 1ul << 40, ~0ul, 0};
    xen_memory_reservation_t reservation = {.nr_extents = 1, .domid = DOMID_SELF};
    domid_t self = DOMID_SELF;
    long current = memory_op(XENMEM_current_reservation, &self);

    bad[9] = start_info->shared_info >> PAGE_SHIFT;
    for (unsigned int i = 0; i < COUNT(bad); i++) {
        set_xen_guest_handle(reservation.extent_start, &bad[i]);
        EXPECT(0, memory_op(XENMEM_decrease_reservation, &reservation));
    }
    EXPECT(current, memory_op(XENMEM_current_reservation, &self));
    EXPECT(NO_TRAP, try_read(shared_info));
}
