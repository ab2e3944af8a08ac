# SPDX-License-Identifier: GPL-2.0-or-later
"""The dump of a domain that has run: readelf reads it, and it is enough to follow page tables."""

from __future__ import annotations

import os
import re
import resource
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyxen.abi.arch_x86_64 import VCPU_GUEST_CONTEXT
from pyxen.hypervisor.page_flags import FRAME, PAGE_SIZE, PRESENT
from pyxen.testing.kernels import (
    BuildToolsMissing,
    PreparedKernel,
    build_kernel,
    check_build_tools,
    prepare_kernel,
)
from pyxen.toolstack.core_dump import dump_core

try:
    check_build_tools()
except BuildToolsMissing as missing:
    pytestmark = pytest.mark.skip(str(missing))

KERNEL = """
#include "runtime.h"
static const char *volatile message = "here I am";
void kernel_main(void)
{
    printk("%lx\\n", (unsigned long)message);
    shutdown(SHUTDOWN_crash);
}
"""


class Dump:
    """A dump as somebody reads it who knows the format alone."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        listing = subprocess.run(
            ["readelf", "--wide", "--file-header", "--sections", str(path)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert listing.stderr == ""
        self.listing = listing.stdout
        self.sections = {
            name: (int(offset, 16), int(size, 16))
            for name, offset, size in re.findall(
                r"\] (\.\S+) +\S+ +[0-9a-f]{16} ([0-9a-f]+) ([0-9a-f]+) ", listing.stdout
            )
        }

    def section(self, name: str) -> bytes:
        offset, size = self.sections[name]
        return self.data[offset : offset + size]

    def notes(self) -> dict[int, bytes]:
        notes, data = {}, self.section(".note.Xen")
        while data:
            name_size, size, kind = struct.unpack_from("<III", data)
            assert data[12 : 12 + name_size] == b"Xen\0"
            notes[kind] = data[16 : 16 + size]
            data = data[16 + size :]
        return notes

    def pages(self) -> dict[int, bytes]:
        """Contents by mfn."""
        pages = self.section(".xen_pages")
        places = struct.iter_unpack("<QQ", self.section(".xen_p2m"))
        return {
            mfn: pages[number * PAGE_SIZE : (number + 1) * PAGE_SIZE]
            for number, (_, mfn) in enumerate(places)
        }

    def read(self, address: int, size: int) -> bytes:
        """At a virtual address of the first vCPU, by the page tables in the dump."""
        context = self.section(".xen_prstatus")
        control = struct.unpack_from("<8Q", context, VCPU_GUEST_CONTEXT.offsets["ctrlreg"])
        pages = self.pages()
        mfn = control[3] // PAGE_SIZE
        for shift in (39, 30, 21, 12):
            (entry,) = struct.unpack_from("<Q", pages[mfn], (address >> shift & 511) * 8)
            assert entry & PRESENT
            mfn = (entry & FRAME) // PAGE_SIZE
        return pages[mfn][address % PAGE_SIZE :][:size]


@pytest.fixture
def crashed(tmp_path: Path) -> Iterator[tuple[PreparedKernel, int]]:
    """A domain that has crashed, and the address of its message."""
    source = tmp_path / "kernel.c"
    source.write_text(KERNEL)
    with prepare_kernel(build_kernel(source)) as kernel:
        result = kernel.run()
        assert result.exit_reason == "crash"
        yield kernel, int(result.output, 16)


def test_what_the_dump_says(crashed: tuple[PreparedKernel, int], tmp_path: Path) -> None:
    kernel, message = crashed
    path = tmp_path / "core"
    path.write_bytes(b"something older")
    path.chmod(0o600)
    dump_core(kernel.domain, path)
    dump = Dump(path)
    assert "CORE (Core file)" in dump.listing
    assert "X86-64" in dump.listing
    pages = kernel.domain.memory.nr_pages
    notes = dump.notes()
    assert list(notes) == [0x2000000, 0x2000001, 0x2000002, 0x2000003]
    assert struct.unpack("<4Q", notes[0x2000001]) == (0xF00FEBED, 1, pages, PAGE_SIZE)
    assert notes[0x2000002].startswith(struct.pack("<QQ16s", 4, 17, b"-pyxen"))
    assert len(notes[0x2000002]) == 1280  # struct xen_dumpcore_elfnote_xen_version_desc
    assert notes[0x2000003] == struct.pack("<Q", 1)
    assert dump.sections[".xen_pages"][0] % PAGE_SIZE == 0
    pfns = [pfn for pfn, _ in struct.iter_unpack("<QQ", dump.section(".xen_p2m"))]
    assert pfns == list(range(pages))
    assert len(dump.section(".xen_shared_info")) == PAGE_SIZE
    assert dump.read(message, 9) == b"here I am"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_disk_that_gets_full(crashed: tuple[PreparedKernel, int], tmp_path: Path) -> None:
    kernel, _ = crashed
    path = tmp_path / "core"
    path.write_bytes(b"something older")
    before = os.listdir(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            dump_core(kernel.domain, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == before
    assert path.read_bytes() == b"something older"


def test_no_such_folder(crashed: tuple[PreparedKernel, int], tmp_path: Path) -> None:
    kernel, _ = crashed
    with pytest.raises(FileNotFoundError):
        dump_core(kernel.domain, tmp_path / "no" / "core")
