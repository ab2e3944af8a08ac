/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* console_io with lengths beyond the buffer, the page and all memory, and unknown commands. */

#include "scenario.h"

void kernel_main(void)
{
    uint8_t *page = page_before_hole();

    memset(page, '.', PAGE_SIZE);
    page[PAGE_SIZE - 1] = '\n';
    REFUSED(hypercall(console_io, CONSOLEIO_write, PAGE_SIZE + 1, page));
    REFUSED(hypercall(console_io, CONSOLEIO_write, 0x7fffffff, page));
    REFUSED(hypercall(console_io, CONSOLEIO_write, 0xffffffff, page));
    EXPECT(0, hypercall(console_io, CONSOLEIO_write, 0, (void *)UNMAPPED));
    for (unsigned int command = 2; command < 40; command++)
        REFUSED(hypercall(console_io, command, 4, page));
    printk("\n");
}
