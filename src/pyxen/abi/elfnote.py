# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF notes of a guest kernel (public/elfnote.h).

A kernel that can run on Xen says so, and how it wants to be started, in ELF notes with the owner
name "Xen", in a PT_NOTE segment or a note section. A numeric note has 4 or 8 bytes, by the length
of its contents; the others are strings that end in a zero byte. Kernels before 2006 have instead a
section `__xen_guest` with one string of NAME=VALUE pairs, separated by commas.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.names import names_of

XEN_ELFNOTE_INFO: Final = 0
XEN_ELFNOTE_ENTRY: Final = 1
XEN_ELFNOTE_HYPERCALL_PAGE: Final = 2
XEN_ELFNOTE_VIRT_BASE: Final = 3
XEN_ELFNOTE_PADDR_OFFSET: Final = 4
XEN_ELFNOTE_XEN_VERSION: Final = 5
XEN_ELFNOTE_GUEST_OS: Final = 6
XEN_ELFNOTE_GUEST_VERSION: Final = 7
XEN_ELFNOTE_LOADER: Final = 8
XEN_ELFNOTE_PAE_MODE: Final = 9
XEN_ELFNOTE_FEATURES: Final = 10
XEN_ELFNOTE_BSD_SYMTAB: Final = 11
XEN_ELFNOTE_HV_START_LOW: Final = 12
XEN_ELFNOTE_L1_MFN_VALID: Final = 13
XEN_ELFNOTE_SUSPEND_CANCEL: Final = 14
XEN_ELFNOTE_INIT_P2M: Final = 15
XEN_ELFNOTE_MOD_START_PFN: Final = 16
XEN_ELFNOTE_SUPPORTED_FEATURES: Final = 17
XEN_ELFNOTE_PHYS32_ENTRY: Final = 18
XEN_ELFNOTE_PHYS32_RELOC: Final = 19

# Notes of crash dumps and of dumped domains, not of kernels.
XEN_ELFNOTE_CRASH_INFO: Final = 0x1000001
XEN_ELFNOTE_CRASH_REGS: Final = 0x1000002
XEN_ELFNOTE_DUMPCORE_NONE: Final = 0x2000000
XEN_ELFNOTE_DUMPCORE_HEADER: Final = 0x2000001
XEN_ELFNOTE_DUMPCORE_XEN_VERSION: Final = 0x2000002
XEN_ELFNOTE_DUMPCORE_FORMAT_VERSION: Final = 0x2000003

XEN_ELFNOTE_NAMES: Final[dict[int, str]] = names_of(globals(), "XEN_ELFNOTE_")

NOT_IN_HEADERS: Final[dict[str, str]] = {
    "XEN_ELFNOTE_PHYS32_RELOC": "later than Xen 4.17",
}
