/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
// variants: SEED=1, SEED=2, SEED=3, SEED=4
/* A program of random bytes: whatever they mean, they end in a trap of the program, or go on until a
 * timer ends them. The kernel sees them all, and nothing else. (Every second program is made of pieces
 * of instructions that are privileged or change segments and flags.) */

#include "scenario.h"

#define CODE_SIZE 2048

/* On its own pages: they are mapped into user mode with the others, writable or executable. */
USER_CODE static void code(void)
{
    asm volatile(".fill 2048, 1, 0x90");
}

static const uint8_t pieces[][6] = {
    {0x0f, 0x05}, {0x0f, 0x34}, {0x0f, 0x07}, {0x48, 0x0f, 0x07}, {0xcf}, {0x48, 0xcf}, {0xcb},
    {0x48, 0xcb}, {0x0f, 0x01}, {0x0f, 0x00}, {0x0f, 0x20}, {0x0f, 0x22}, {0x0f, 0x21}, {0x0f, 0x23},
    {0x0f, 0x30}, {0x0f, 0x32}, {0x0f, 0xa2}, {0x0f, 0x0b, 'x', 'e', 'n', 0x0f}, {0xcd, 0x80},
    {0xcd}, {0xcc}, {0xf1}, {0x9d}, {0x9c}, {0x8e}, {0x8c}, {0xea}, {0xff}, {0x66, 0xcf}, {0xfa},
    {0xfb}, {0xf4}, {0xe4}, {0xec}, {0x6c}, {0xf3, 0x6c}, {0xf0}, {0x0f, 0xae}, {0x0f, 0xc7},
    {0x0f, 0x18}, {0x62}, {0xc4}, {0xc5}, {0x0f, 0x38}, {0x0f, 0x3a}, {0xdd}, {0xd9}, {0x0f, 0x6f},
    {0xf2, 0x0f}, {0x64}, {0x65}, {0x67}, {0x0f, 0xb2}, {0x0f, 0x02}, {0x0f, 0x03},
};

static void stop(evtchn_port_t port)
{
    if (try_armed)
        try_abort(TRAP_EVENT);
}

static void write_program(uint8_t *target, bool of_pieces)
{
    for (unsigned int i = 0; i < 64; i++)
        target[i] = (uint8_t)random_number();
    for (unsigned int i = 0; of_pieces && i < 56; i += 1 + random_number() % 6) {
        const uint8_t *piece = pieces[random_number() % COUNT(pieces)];

        for (unsigned int j = 0; j < 6 && (j == 0 || piece[j]); j++)
            target[i + j] = piece[j];
    }
}

void kernel_main(void)
{
    evtchn_bind_virq_t virq = {.virq = VIRQ_TIMER, .vcpu = 0};
    static volatile unsigned int ended[261], i;
    uint8_t *target = (uint8_t *)code + 16;

    random_state += SEED * 0x55555555ul;
    EXPECT(0, event_op(EVTCHNOP_bind_virq, &virq));
    event_hook = stop;
    memset((void *)shared_info->evtchn_mask, 0, sizeof(shared_info->evtchn_mask));
    for (i = 0; i < 1500; i++) {
        int vector;

        write_program(target, i % 2);
        mask_events();
        vcpu_info(0)->evtchn_upcall_pending = 0;
        hypercall(set_timer_op, system_time() + 3000000);
        vector = run_user((void (*)(void))target, random_number());
        ended[vector]++;
        mask_events();
        hypercall(set_timer_op, 0);
        asm volatile("mov %0, %%ds; mov %0, %%es; fninit" : : "r"(0));
    }
    CHECK(ended[TRAP_PAGE_FAULT] > 10);
    CHECK(ended[TRAP_GENERAL_PROTECTION] > 10);
    CHECK(ended[TRAP_INVALID_OPCODE] > 10);
    CHECK(ended[TRAP_SYSCALL] > 1);
    EXPECT(0, ended[TRAP_DOUBLE_FAULT]);
    EXPECT(0, ended[TRAP_INVALID_TSS]);
}
