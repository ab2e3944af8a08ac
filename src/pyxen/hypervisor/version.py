# SPDX-License-Identifier: GPL-2.0-or-later
"""The version of Xen that guests see, by hypercall, by CPUID and in sysfs."""

from __future__ import annotations

from pyxen.abi.version import XEN_COMPILE_INFO

XEN_MAJOR = 4
XEN_MINOR = 17
EXTRA_VERSION = "-pyxen"
COMPILER = "Python"
COMPILE_BY = "pyxen"
COMPILE_DOMAIN = "pyxen"
COMPILE_DATE = "Mon Dec 12 2022"
"""That of Xen 4.17.0: guests show it, and a date of ours would tell them nothing about Xen."""
CAPABILITIES = "xen-3.0-x86_64 "
"""With a blank behind each kind of guest, as Xen has it."""
CHANGESET = "unavailable"
COMPILE_INFO = XEN_COMPILE_INFO.pack(
    COMPILER.encode(), COMPILE_BY.encode(), COMPILE_DOMAIN.encode(), COMPILE_DATE.encode()
)
