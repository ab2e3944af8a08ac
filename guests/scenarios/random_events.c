/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
// vcpus: 2
// variants: SEED=1, SEED=2, SEED=3, SEED=4
/* Random work on event channels, of both forms by the seed's last bit, with half-sane arguments, while
 * the words that the guest shares with Xen change under it. A channel that is made afterwards works. */

#include "scenario.h"

static evtchn_port_t any_port(void)
{
    return (evtchn_port_t)(random_number() % 16 ? random_number() % 24 : random_number());
}

static void garbage(unsigned long *words, unsigned int count)
{
    for (unsigned int i = 0; i < 8; i++)
        words[random_number() % count] = random_number() & random_number();
}

void kernel_main(void)
{
    unsigned long *block = alloc_page(), *words = alloc_page();
    evtchn_reset_t reset = {.dom = DOMID_SELF};
    evtchn_bind_ipi_t ipi = {.vcpu = 0};
    evtchn_status_t status = {.dom = DOMID_SELF};
    uint32_t argument[8];

    random_state += SEED * 0x1234567ul;
    if (SEED & 1) {
        evtchn_init_control_t control = {.control_gfn = virt_to_mfn(block)};
        evtchn_expand_array_t array = {.array_gfn = virt_to_mfn(words)};

        EXPECT(0, event_op(EVTCHNOP_init_control, &control));
        EXPECT(0, event_op(EVTCHNOP_expand_array, &array));
    }
    for (unsigned int i = 0; i < 8000; i++) {
        unsigned int command = (unsigned int)(random_number() % 15);

        if (command == EVTCHNOP_reset && random_number() % 50)
            command = EVTCHNOP_send;
        if (command == EVTCHNOP_init_control || command == EVTCHNOP_expand_array)
            command = EVTCHNOP_unmask;
        argument[0] = any_port();
        argument[1] = random_number() % 2 ? any_port() : 0;
        argument[2] = any_port();
        argument[3] = argument[4] = 0;
        if (random_number() % 2)
            argument[0] = DOMID_SELF | (random_number() % 2 ? DOMID_SELF << 16 : 0);
        event_op(command, argument);
        mask_events();
        if (SEED & 1) {
            garbage(block, 16);
            garbage(words, 24 / 2);
        } else {
            garbage((unsigned long *)shared_info->evtchn_pending, 64);
            garbage((unsigned long *)shared_info->evtchn_mask, 64);
        }
    }
    EXPECT(0, event_op(EVTCHNOP_reset, &reset));
    EXPECT(0, event_op(EVTCHNOP_bind_ipi, &ipi));
    status.port = ipi.port;
    EXPECT(0, event_op(EVTCHNOP_status, &status));
    EXPECT(EVTCHNSTAT_ipi, status.status);
}
