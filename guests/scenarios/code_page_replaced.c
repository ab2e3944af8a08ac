/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Code is executed, then another frame is mapped in its place, or Xen copies over it: what runs next
 * is the new code. */

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
    uint8_t *page = alloc_page(), *other = alloc_page();
    unsigned long first = frame_of(page, PTE_KERNEL), second = frame_of(other, PTE_KERNEL);

    write_code(page, 1);
    write_code(other, 2);
    EXPECT(0, map(page, first));
    EXPECT(1, call(page));
    EXPECT(0, map(page, second));
    EXPECT(2, call(page));
    EXPECT(0, mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0)); /* as a kernel does that patches by an alias */
    write_code(other, 3);
    EXPECT(3, call(page));
    EXPECT(0, map(page, first));
    EXPECT(0, mmuext(MMUEXT_COPY_PAGE, first >> PAGE_SHIFT, second >> PAGE_SHIFT));
    EXPECT(3, call(page));
    EXPECT(0, map(page, first | PTE_NX));
    EXPECT(TRAP_PAGE_FAULT, TRY(call(page)));
    EXPECT(0, map(page, first & ~PTE_PRESENT));
    EXPECT(TRAP_PAGE_FAULT, TRY(call(page)));
}
