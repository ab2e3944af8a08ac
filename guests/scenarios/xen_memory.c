/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Xen's part of the address space, seen by the kernel: the M2P can be read, as far as the machine
 * reaches, and not written or executed; all else faults, or (tables of descriptors) cannot be
 * written. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long mfn = virt_to_mfn(start_info);

    EXPECT(NO_TRAP, try_read(machine_to_phys_mapping));
    EXPECT(NO_TRAP, try_read(&machine_to_phys_mapping[mfn]));
    EXPECT(virt_to_pfn(start_info), machine_to_phys_mapping[mfn]);
    EXPECT(~0ul, machine_to_phys_mapping[5]);
    EXPECT(TRAP_PAGE_FAULT, try_write(machine_to_phys_mapping, 0));
    EXPECT(TRAP_PAGE_FAULT, try_write(&machine_to_phys_mapping[mfn], 0));
    EXPECT(TRAP_PAGE_FAULT, TRY(((void (*)(void))machine_to_phys_mapping)()));
    EXPECT(TRAP_PAGE_FAULT, try_read(&machine_to_phys_mapping[1ul << 32]));
    for (unsigned long slot = 0; slot < 16; slot++)
        for (unsigned long offset = 0; offset < 1ul << 39; offset += 0x1fffff000) {
            unsigned long *address = (void *)(HYPERVISOR_VIRT_START + (slot << 39) + offset);

            CHECK(try_write(address, 0) == TRAP_PAGE_FAULT);
            if (slot != 0 && slot != 4)
                CHECK(try_read(address) == TRAP_PAGE_FAULT);
            CHECK(TRY(((void (*)(void))address)()) == TRAP_PAGE_FAULT);
        }
    EXPECT(TRAP_PAGE_FAULT, try_write((void *)XEN_PRIVATE, 0));
    EXPECT(TRAP_PAGE_FAULT, try_write((void *)(XEN_PRIVATE + 14 * PAGE_SIZE), 0));
    EXPECT(TRAP_PAGE_FAULT, TRY(((void (*)(void))XEN_PRIVATE)()));
}
