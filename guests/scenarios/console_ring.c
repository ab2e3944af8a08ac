/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Nonsense in the console ring: indexes far apart, before and behind, while its event is sent. The back
 * end leaves the ring alone; when it makes sense again, it works again. */

#include "scenario.h"

#include <xen/io/console.h>

void kernel_main(void)
{
    volatile struct xencons_interface *ring = mfn_to_virt(start_info->console.domU.mfn);
    evtchn_send_t send = {.port = start_info->console.domU.evtchn};
    static const char text[] = "by the ring\n";

    for (unsigned int i = 0; i < 200; i++) {
        ring->out_prod = (uint32_t)random_number();
        ring->out_cons = (uint32_t)random_number();
        ring->in_prod = (uint32_t)random_number();
        ring->in_cons = (uint32_t)random_number();
        if (ring->out_prod - ring->out_cons <= sizeof(ring->out))
            continue;
        CHECK(event_op(EVTCHNOP_send, &send) == 0);
    }
    ring->out_prod = ring->out_cons = 0;
    for (unsigned int i = 0; text[i]; i++)
        ring->out[ring->out_prod++ % sizeof(ring->out)] = text[i];
    EXPECT(0, event_op(EVTCHNOP_send, &send));
    EXPECT(ring->out_prod, ring->out_cons);
}
