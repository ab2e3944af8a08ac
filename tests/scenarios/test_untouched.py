# SPDX-License-Identifier: GPL-2.0-or-later
"""The look at what is Xen's finds what it is there to find."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from untouched import Machine

from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.memory import FIRST_RESERVED_GDT_PAGE, FIRST_XEN_SLOT
from pyxen.hypervisor.page_flags import ENTRIES, FRAME, PAGE_SIZE, PRESENT, RW
from pyxen.testing.kernels import (
    BuildToolsMissing,
    build_kernel,
    check_build_tools,
    prepare_kernel,
)

HELLO = Path(__file__).parent.parent.parent / "examples" / "hello_kernel" / "hello.c"

try:
    check_build_tools()
except BuildToolsMissing as missing:
    pytestmark = pytest.mark.skip(str(missing))


@pytest.fixture
def domain() -> Iterator[Domain]:
    with prepare_kernel(build_kernel(HELLO)) as prepared:
        yield prepared.domain


def test_a_run_changes_nothing() -> None:
    with prepare_kernel(build_kernel(HELLO)) as prepared:
        machine = Machine(prepared.domain)
        prepared.run()
        assert machine.changes() == []


def test_finds_a_changed_frame_of_xens(domain: Domain) -> None:
    machine = Machine(domain)
    reserved = domain.memory.words[domain.memory.gdt_entries + FIRST_RESERVED_GDT_PAGE]
    domain.memory.bytes[(reserved & FRAME) + 100] ^= 1
    assert len(machine.changes()) == 1


@pytest.mark.parametrize("page", [0, FIRST_RESERVED_GDT_PAGE, 16])
def test_finds_a_writable_descriptor_page(domain: Domain, page: int) -> None:
    machine = Machine(domain)
    place = domain.memory.gdt_entries + page
    entry = domain.memory.words[place]
    domain.memory.words[place] = (domain.memory.ram_mfn + 7) * PAGE_SIZE | PRESENT | RW
    assert len(machine.changes()) == 1
    domain.memory.words[place] = entry  # the domain's end gives it up


def test_finds_a_changed_slot(domain: Domain) -> None:
    machine = Machine(domain)
    l4 = domain.vcpus[0].kernel_table_mfn
    domain.memory.words[l4 * ENTRIES + FIRST_XEN_SLOT + 5] = 1
    assert len(machine.changes()) == 1


def test_finds_what_the_m2p_tells_of_others(domain: Domain) -> None:
    machine = Machine(domain)
    domain.memory.m2p[97] = 5
    assert len(machine.changes()) == 1
