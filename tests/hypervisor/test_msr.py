# SPDX-License-Identifier: GPL-2.0-or-later
"""The model-specific registers of a PV guest."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pyxen.abi.errno import EFAULT
from pyxen.errors import XenError
from pyxen.hypervisor import msr
from pyxen.hypervisor.msr import read_msr, write_msr


class FakeVcpu:
    def __init__(self, vcpu_id: int = 0, cpu_vendor: str = "GenuineIntel") -> None:
        self.registers: Any = SimpleNamespace(fs_base=0x1000, gs_base=0x2000)
        self.user_gs_base = 0x3000
        self.vcpu_id = vcpu_id
        self.cpu_vendor = cpu_vendor
        self.hypercall_pages: list[int] = []

    def read_tsc(self) -> int:
        return 0x123456789

    def write_hypercall_page(self, gfn: int) -> None:
        if gfn == 0xBAD:
            raise XenError(EFAULT)
        self.hypercall_pages.append(gfn)


def test_segment_bases() -> None:
    vcpu = FakeVcpu()
    bases = (msr.MSR_FS_BASE, msr.MSR_GS_BASE, msr.MSR_SHADOW_GS_BASE)
    assert [read_msr(vcpu, index) for index in bases] == [0x1000, 0x2000, 0x3000]
    for number, index in enumerate(bases):
        write_msr(vcpu, index, 0xFFFF800000000000 + number)
        with pytest.raises(XenError):
            write_msr(vcpu, index, 0x800000000000)
    assert vcpu.registers.fs_base == 0xFFFF800000000000
    assert vcpu.registers.gs_base == 0xFFFF800000000001
    assert vcpu.user_gs_base == 0xFFFF800000000002


def test_what_describes_the_machine() -> None:
    assert read_msr(FakeVcpu(), msr.MSR_TSC) == 0x123456789
    assert read_msr(FakeVcpu(0), msr.MSR_APIC_BASE) == 0xFEE00900
    assert read_msr(FakeVcpu(1), msr.MSR_APIC_BASE) == 0xFEE00800
    assert read_msr(FakeVcpu(), msr.MSR_PAT) == 0x50100070406
    assert read_msr(FakeVcpu(), msr.MSR_EFER) == 0xD01


def test_efer_can_be_written_back_only() -> None:
    write_msr(FakeVcpu(), msr.MSR_EFER, 0xD01)
    with pytest.raises(XenError):
        write_msr(FakeVcpu(), msr.MSR_EFER, 0xD00)


def test_hypercall_page() -> None:
    vcpu = FakeVcpu()
    write_msr(vcpu, 0x40000000, 0x1234000)
    assert vcpu.hypercall_pages == [0x1234]
    for bad in (0x1234001, 0xBAD000):
        with pytest.raises(XenError):
            write_msr(vcpu, 0x40000000, bad)
    assert read_msr(vcpu, 0x40000000) == 0


def test_registers_of_one_vendor() -> None:
    intel, amd = FakeVcpu(), FakeVcpu(cpu_vendor="AuthenticAMD")
    assert read_msr(intel, msr.MSR_MISC_ENABLE) == 0x801800
    assert read_msr(amd, msr.MSR_AMD_DE_CFG) == 2
    write_msr(intel, msr.MSR_MISC_ENABLE, 0)
    write_msr(amd, msr.MSR_AMD_DE_CFG, 0)
    write_msr(amd, msr.MSR_K8_PSTATE_LIMIT + 10, 0)
    for vcpu, index in ((amd, msr.MSR_MISC_ENABLE), (intel, msr.MSR_AMD_DE_CFG)):
        with pytest.raises(XenError):
            read_msr(vcpu, index)
        with pytest.raises(XenError):
            write_msr(vcpu, index, 0)


# Read-only, or with hypercalls of their own, or not offered.
@pytest.mark.parametrize("index", (msr.MSR_TSC, msr.MSR_PAT, msr.MSR_APIC_BASE, 0x48, 0xC0000082))
def test_refused_writes(index: int) -> None:
    with pytest.raises(XenError):
        write_msr(FakeVcpu(), index, 0)


@pytest.mark.parametrize("index", (0x34, 0x48, 0x179, 0xC0000081, 0xC0000082, 0xC0000103, 0x800))
def test_refused_reads(index: int) -> None:
    with pytest.raises(XenError):
        read_msr(FakeVcpu(), index)
