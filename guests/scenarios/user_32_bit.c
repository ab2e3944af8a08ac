/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* A 32-bit program: software interrupts, both system-call instructions, far jumps to 64-bit code and to
 * privileged segments, privileged instructions. Its kernel sees each, and only what is its. */

#include "scenario.h"

#define BASE 0x400000ul

static uint8_t *code;

static int run(const uint8_t *bytes, size_t size)
{
    struct trap_frame frame = {
        .rip = BASE, .cs = FLAT_USER_CS32, .rflags = 0x202, .ss = FLAT_USER_SS32,
        .rsp = BASE + PAGE_SIZE - 16,
    };

    memset(code, 0xcc, PAGE_SIZE);
    memcpy(code, bytes, size);
    return TRY(resume(&frame));
}
#define RUN(...) run((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void map_low_page(void)
{
    unsigned long *tables[3], entry;

    for (unsigned int level = 0; level < 3; level++)
        tables[level] = alloc_page();
    tables[0][0] = frame_of(code, PTE_KERNEL | PTE_USER);
    tables[1][2] = frame_of(tables[0], PTE_KERNEL | PTE_USER);
    tables[2][0] = frame_of(tables[1], PTE_KERNEL | PTE_USER);
    for (unsigned int level = 0; level < 3; level++)
        make_read_only(tables[level]);
    entry = frame_of(tables[2], PTE_KERNEL | PTE_USER);
    EXPECT(0, write_entry(user_l4_mfn << PAGE_SHIFT, entry));
}

void kernel_main(void)
{
    static trap_info_t table[] = {
        {.vector = 0x80, .flags = 3, .cs = FLAT_KERNEL_CS, .address = 0},
        {0},
    };
    int vector;

    code = alloc_page();
    prepare_user();
    map_low_page();
    table[0].address = (unsigned long)other_entry;
    EXPECT(0, hypercall(set_trap_table, table));

    EXPECT(TRAP_INT3, RUN(0xcc));
    EXPECT(FLAT_USER_CS32, last_trap.cs & 0xffff);
    EXPECT(BASE + 1, last_trap.rip);
    EXPECT(TRAP_OTHER, RUN(0xcd, 0x80));
    EXPECT(TRAP_GENERAL_PROTECTION, RUN(0xcd, 0x82));
    EXPECT(0x82 << 3 | 2, last_trap.error);
    EXPECT(TRAP_GENERAL_PROTECTION, RUN(0xfa));
    EXPECT(TRAP_GENERAL_PROTECTION, RUN(0xf4));
    EXPECT(TRAP_GENERAL_PROTECTION, RUN(0x0f, 0x20, 0xc0));
    EXPECT(TRAP_GENERAL_PROTECTION, RUN(0x0f, 0x22, 0xd8));
    EXPECT(TRAP_GENERAL_PROTECTION, RUN(0xea, 0, 0, 0x40, 0, 0x08, 0xe0)); /* Xen's code */
    EXPECT(TRAP_PAGE_FAULT, RUN(0xa1, 0, 0, 0, 0x80)); /* its kernel's base, cut to 32 bits */
    EXPECT(0x80000000, last_cr2);
    EXPECT(TRAP_PAGE_FAULT, RUN(0xa3, 0, 0, 0, 0));
    EXPECT(PTE_USER | 2, last_trap.error);
    vector = RUN(0x0f, 0x05); /* syscall, sysenter: without a callback a fault */
    CHECK(vector == TRAP_GENERAL_PROTECTION || vector == TRAP_INVALID_OPCODE);
    vector = RUN(0x0f, 0x34);
    CHECK(vector == TRAP_GENERAL_PROTECTION || vector == TRAP_INVALID_OPCODE);
    /* A far jump to 64-bit code is a program's right: there `inc %eax` is a prefix. */
    EXPECT(TRAP_INT3, RUN(0x31, 0xc0, 0xea, 0x09, 0, 0x40, 0, 0x33, 0xe0, 0x40, 0x90, 0xcc));
    EXPECT(FLAT_USER_CS64, last_trap.cs & 0xffff);
    EXPECT(0, last_trap.rax);
}
