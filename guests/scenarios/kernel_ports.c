/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* I/O ports after the kernel has asked for all privilege levels and a bitmap: there are no devices. The
 * answer is all ones or a fault, never the host's. */

#include "scenario.h"

static unsigned int port_in(unsigned int port)
{
    unsigned int value = 0;

    asm volatile("in %%dx, %%eax" : "=a"(value) : "d"(port));
    return value;
}

void kernel_main(void)
{
    physdev_set_iopl_t iopl = {.iopl = 3};
    physdev_set_iobitmap_t bitmap = {.nr_ports = 65536};
    uint8_t *bits = alloc_page();
    static volatile unsigned int value;

    alloc_page();
    EXPECT(0, hypercall(physdev_op, PHYSDEVOP_set_iopl, &iopl));
    set_xen_guest_handle(bitmap.bitmap, bits);
    EXPECT(0, hypercall(physdev_op, PHYSDEVOP_set_iobitmap, &bitmap));
    for (unsigned int port = 0; port < 0x10000; port += port < 0x400 ? 1 : 1021) {
        volatile int vector = TRY(value = port_in(port));

        CHECK(vector == NO_TRAP || vector == TRAP_GENERAL_PROTECTION);
        if (vector == NO_TRAP && (port < 0xcf5 || port > 0xcff))
            CHECK(value == 0xffffffff);
        vector = TRY(asm volatile("out %%al, %%dx" : : "a"(0), "d"(port)));
        CHECK(vector == NO_TRAP || vector == TRAP_GENERAL_PROTECTION);
    }
    iopl.iopl = 4;
    EXPECT(-XEN_EINVAL, hypercall(physdev_op, PHYSDEVOP_set_iopl, &iopl));
    bitmap.nr_ports = 65537;
    EXPECT(-XEN_EINVAL, hypercall(physdev_op, PHYSDEVOP_set_iobitmap, &bitmap));
}
