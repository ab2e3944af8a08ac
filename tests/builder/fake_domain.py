# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain that has nothing but memory, to build into."""

from __future__ import annotations

from array import array

PAGE = 4096
RAM_MFN = 0x40


class FakeMemory:
    """Machine memory; the pages of the domain lie in it from the end downwards."""

    def __init__(self, nr_pages: int) -> None:
        self.nr_pages = nr_pages
        self.p2m = array("Q", range(RAM_MFN + nr_pages - 1, RAM_MFN - 1, -1))
        self.bytes = memoryview(bytearray((RAM_MFN + nr_pages) * PAGE))
        self.words = self.bytes.cast("Q")
        self.shared_info_mfn = 5

    def copy_to_pfn(self, pfn: int, data: memoryview | bytes, offset: int = 0) -> None:
        source = memoryview(data)
        while source:
            start = self.p2m[pfn] * PAGE + offset
            count = min(PAGE - offset, len(source))
            self.bytes[start : start + count] = source[:count]
            source, pfn, offset = source[count:], pfn + 1, 0

    def page(self, pfn: int) -> memoryview:
        start = self.p2m[pfn] * PAGE
        return self.bytes[start : start + PAGE]


class FakeDomain:
    def __init__(self, mib: int) -> None:
        self.memory = FakeMemory(mib << 8)
        self.l4_mfns: list[int] = []
        self.hypercall_pages: list[int] = []

    def install_hypervisor_slots(self, l4_mfn: int) -> None:
        self.l4_mfns.append(l4_mfn)

    def fill_hypercall_page(self, mfn: int) -> None:
        self.hypercall_pages.append(mfn)
