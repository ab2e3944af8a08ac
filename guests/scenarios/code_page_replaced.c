/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Code is executed, then another frame is mapped in its place, Xen copies over it, or it is changed by
 * a second mapping of its page, writable and not executable, as JIT compilers and debuggers do: what
 * runs next is the new code. */

#include "scenario.h"

static long call(void *code)
{
    return ((long (*)(void))code)();
}

static void write_code(uint8_t *page, uint8_t value)
{
    static const uint8_t code[] = {0xb8, 0, 0, 0, 0, 0xc3}; /* mov $value, %eax; ret */

    memcpy(page, code, sizeof(code));
    page[1] = value;
}

void kernel_main(void)
{
    uint8_t *page = alloc_page(), *other = alloc_page(), *template = alloc_page();
    unsigned long first = frame_of(page, PTE_KERNEL), second = frame_of(other, PTE_KERNEL);

    write_code(page, 1);
    write_code(other, 2);
    EXPECT(0, map(page, first));
    EXPECT(1, call(page));
    EXPECT(0, map(page, second));
    EXPECT(2, call(page));
    write_code(other, 3);
    EXPECT(3, call(page));
    EXPECT(0, map(page, first));
    EXPECT(0, mmuext(MMUEXT_COPY_PAGE, first >> PAGE_SHIFT, second >> PAGE_SHIFT));
    EXPECT(3, call(page));
    /* The whole page is written by the other mapping: both pieces of code are new. */
    write_code(other + 2048, 4);
    EXPECT(0, map(page, second));
    EXPECT(3, call(page));
    EXPECT(4, call(page + 2048));
    write_code(template, 5);
    write_code(template + 2048, 6);
    memcpy(other, template, PAGE_SIZE);
    EXPECT(5, call(page));
    EXPECT(6, call(page + 2048));
    EXPECT(0, map(page, first | PTE_NX));
    EXPECT(TRAP_PAGE_FAULT, TRY(call(page)));
    EXPECT(0, map(page, first & ~PTE_PRESENT));
    EXPECT(TRAP_PAGE_FAULT, TRY(call(page)));
}
