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
        self.cpu_family = 6 if cpu_vendor == "GenuineIntel" else 0x17
        self.has_rdtscp = True
        self.has_exception_handler = True
        self.msrs = msr.VcpuMsrs()
        self.tsc_aux: int | None = None
        self.cpuid_faulting: bool | None = None
        self.hypercall_pages: list[int] = []

    def read_tsc(self) -> int:
        return 0x123456789

    def set_tsc_aux(self, value: int) -> None:
        self.tsc_aux = value

    def set_cpuid_faulting(self, enabled: bool) -> None:
        self.cpuid_faulting = enabled

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


ONES = (1 << 64) - 1
FAULT = "fault"
VANISHES = "vanishes"
ZERO = "zero"  # 0 can be written, and nothing else

# Registers, from the first to the last; what an Intel CPU shows in them and what becomes of a
# write; the same on AMD's. From Xen's functions that ``msr`` names.
TABLE: list[tuple[int, int, int | str, str, int | str, str]] = [
    (0x00, 0x01, 0, FAULT, 0, FAULT),  # P5_MC_ADDR, P5_MC_TYPE
    (0x10, 0x10, 0x123456789, FAULT, 0x123456789, FAULT),  # TSC
    (0x17, 0x17, 0, FAULT, FAULT, FAULT),  # PLATFORM_ID
    (0x1B, 0x1B, 0xFEE00900, FAULT, 0xFEE00900, FAULT),  # APIC_BASE
    (0x33, 0x35, FAULT, FAULT, FAULT, FAULT),  # TEST_CTRL, SMI_COUNT, CORE_THREAD_COUNT
    (0x3A, 0x3A, 1, FAULT, FAULT, FAULT),  # FEATURE_CONTROL
    (0x48, 0x49, FAULT, FAULT, FAULT, FAULT),  # SPEC_CTRL, PRED_CMD
    (0x4E, 0x4F, FAULT, FAULT, FAULT, FAULT),  # PPIN_CTL, PPIN
    (0x79, 0x79, FAULT, FAULT, FAULT, FAULT),  # UCODE_WRITE
    (0x8B, 0x8B, 0, ZERO, 0, FAULT),  # UCODE_REV, PATCHLEVEL
    (0xC1, 0xC8, 0, VANISHES, FAULT, FAULT),  # P6_PERFCTR
    (0xCE, 0xCE, 1 << 31, FAULT, 0, FAULT),  # PLATFORM_INFO: CPUID faulting
    (0xCF, 0xCF, FAULT, FAULT, FAULT, FAULT),  # CORE_CAPABILITIES
    (0xE7, 0xE8, FAULT, VANISHES, FAULT, VANISHES),  # MPERF, APERF
    (0xFE, 0xFE, FAULT, FAULT, FAULT, FAULT),  # MTRRCAP
    (0x10A, 0x10B, FAULT, FAULT, FAULT, FAULT),  # ARCH_CAPABILITIES, FLUSH_CMD
    (0x10F, 0x10F, FAULT, FAULT, FAULT, FAULT),  # TSX_FORCE_ABORT
    (0x122, 0x123, FAULT, FAULT, FAULT, FAULT),  # TSX_CTRL, MCU_OPT_CTRL
    (0x140, 0x140, 0, ZERO, 0, ZERO),  # MISC_FEATURES_ENABLES
    (0x174, 0x176, FAULT, FAULT, FAULT, FAULT),  # SYSENTER
    (0x179, 0x179, 0x1000C02, VANISHES, 2, VANISHES),  # MCG_CAP
    (0x17B, 0x17B, 0, VANISHES, 0, VANISHES),  # MCG_CTL
    (0x186, 0x189, 0, VANISHES, FAULT, FAULT),  # P6_EVNTSEL
    (0x18A, 0x18A, FAULT, FAULT, FAULT, FAULT),
    (0x198, 0x198, 0, FAULT, FAULT, FAULT),  # PERF_STATUS
    (0x199, 0x199, 0, VANISHES, FAULT, FAULT),  # PERF_CTL
    (0x19A, 0x19A, FAULT, VANISHES, FAULT, FAULT),  # THERM_CONTROL
    (0x19C, 0x19C, 0, FAULT, FAULT, FAULT),  # THERM_STATUS
    (0x1A0, 0x1A0, 0x801800, VANISHES, FAULT, FAULT),  # MISC_ENABLE
    (0x1B0, 0x1B0, FAULT, VANISHES, FAULT, FAULT),  # ENERGY_PERF_BIAS
    (0x1D9, 0x1D9, FAULT, FAULT, FAULT, FAULT),  # DEBUGCTL
    (0x200, 0x20F, FAULT, FAULT, FAULT, FAULT),  # MTRRs
    (0x277, 0x277, 0x50100070406, FAULT, 0x50100070406, FAULT),  # PAT
    (0x282, 0x29F, 0, VANISHES, 0, VANISHES),  # MCi_CTL2 of banks that there are not
    (0x309, 0x30B, 0, VANISHES, FAULT, FAULT),  # FIXED_CTR
    (0x345, 0x345, 0, FAULT, 0, FAULT),  # PERF_CAPABILITIES
    (0x38D, 0x390, 0, VANISHES, FAULT, FAULT),  # FIXED_CTR_CTRL to GLOBAL_OVF_CTRL
    (0x400, 0x400, ONES, VANISHES, ONES, VANISHES),  # MC0_CTL
    (0x401, 0x403, 0, ZERO, 0, ZERO),  # MC0_STATUS, MC0_ADDR, MC0_MISC
    (0x404, 0x404, ONES, VANISHES, ONES, VANISHES),  # MC1_CTL
    (0x405, 0x407, 0, ZERO, 0, ZERO),
    (0x408, 0x47F, 0, VANISHES, 0, VANISHES),  # banks that there are not
    (0x4D0, 0x4D0, FAULT, FAULT, FAULT, FAULT),  # MCG_EXT_CTL
    (0x560, 0x587, FAULT, FAULT, FAULT, FAULT),  # RTIT
    (0x6A0, 0x6A8, FAULT, FAULT, FAULT, FAULT),  # CET
    (0x6E0, 0x6E0, FAULT, FAULT, FAULT, FAULT),  # TSC_DEADLINE
    (0x800, 0x8FF, FAULT, FAULT, FAULT, FAULT),  # X2APIC
    (0xD90, 0xD90, FAULT, FAULT, FAULT, FAULT),  # BNDCFGS
    (0xDA0, 0xDA0, FAULT, FAULT, FAULT, FAULT),  # XSS
    (0x40000001, 0x400002FF, FAULT, FAULT, FAULT, FAULT),  # Xen's, that it does not have
    (0xC0000081, 0xC0000084, FAULT, FAULT, FAULT, FAULT),  # STAR, LSTAR, CSTAR, FMASK
    (0xC0000105, 0xC0000106, FAULT, FAULT, FAULT, FAULT),  # LWP
    (0xC0000408, 0xC000040A, FAULT, FAULT, FAULT, FAULT),  # MC4_MISC
    (0xC0010000, 0xC0010007, FAULT, FAULT, 0, VANISHES),  # K7_EVNTSEL, K7_PERFCTR
    (0xC0010010, 0xC0010010, FAULT, FAULT, FAULT, FAULT),  # SYSCFG
    (0xC0010015, 0xC0010015, FAULT, FAULT, 1 << 24, VANISHES),  # HWCR
    (0xC001001A, 0xC001001D, FAULT, FAULT, FAULT, FAULT),  # TOP_MEM and the like
    (0xC001001F, 0xC001001F, 0, VANISHES, 0, VANISHES),  # NB_CFG
    (0xC0010020, 0xC0010020, FAULT, FAULT, FAULT, FAULT),  # PATCHLOADER
    (0xC0010041, 0xC0010042, FAULT, FAULT, 0, VANISHES),  # FID/VID
    (0xC0010058, 0xC0010058, FAULT, FAULT, FAULT, FAULT),  # MMIO_CONF_BASE, before family 0x17
    (0xC0010061, 0xC001006B, FAULT, FAULT, 0, VANISHES),  # P-states
    (0xC0010200, 0xC001020B, FAULT, FAULT, 0, VANISHES),  # FAM15H_EVNTSEL, PERFCTR
    (0xC001020C, 0xC001020C, FAULT, FAULT, FAULT, FAULT),
    (0xC0011019, 0xC001101B, FAULT, FAULT, FAULT, FAULT),  # DR_ADDRESS_MASK
    (0xC0011027, 0xC0011027, FAULT, FAULT, FAULT, FAULT),
    (0xC0011029, 0xC0011029, FAULT, FAULT, 2, VANISHES),  # DE_CFG
    (0xC001011F, 0xC001011F, FAULT, FAULT, FAULT, FAULT),  # VIRT_SPEC_CTRL
]


def read(vcpu: FakeVcpu, index: int) -> int | str:
    try:
        return read_msr(vcpu, index)
    except XenError:
        return FAULT


def outcome_of_write(vcpu: FakeVcpu, index: int) -> str:
    """Of 0, and of a value with a bit that no register has."""
    taken = []
    for value in (0, 1 << 62 | 1 << 33):
        try:
            write_msr(vcpu, index, value)
            taken.append(True)
        except XenError:
            taken.append(False)
    return {(True, True): VANISHES, (True, False): ZERO, (False, False): FAULT}[taken[0], taken[1]]


@pytest.mark.parametrize("row", TABLE, ids=[f"{row[0]:#x}" for row in TABLE])
def test_table(row: tuple[int, int, int | str, str, int | str, str]) -> None:
    for vendor, shown, written in (("GenuineIntel", *row[2:4]), ("AuthenticAMD", *row[4:6])):
        for index in range(row[0], row[1] + 1):
            vcpu = FakeVcpu(cpu_vendor=vendor)
            assert read(vcpu, index) == shown, (vendor, hex(index))
            assert outcome_of_write(vcpu, index) == written, (vendor, hex(index))
            assert read(vcpu, index) == shown, (vendor, hex(index))


def test_a_cpu_of_another_vendor_has_what_all_have() -> None:
    other = FakeVcpu(cpu_vendor="HygonGenuine")
    assert read(other, msr.MSR_PAT) == msr.PAT
    for index in (msr.MSR_MISC_ENABLE, msr.MSR_K8_HWCR):
        assert read(other, index) == FAULT
        assert outcome_of_write(other, index) == FAULT


def test_machine_check_keeps_its_status_and_thresholds() -> None:
    vcpu = FakeVcpu()
    for index in (msr.MSR_MCG_STATUS, msr.MSR_MC0_CTL2, msr.MSR_MC0_CTL2 + 1):
        assert read(vcpu, index) == 0
        write_msr(vcpu, index, 0x1234_5678_9ABC)
        assert read(vcpu, index) == 0x1234_5678_9ABC
    amd = FakeVcpu(cpu_vendor="AuthenticAMD")
    write_msr(amd, msr.MSR_MC0_CTL2, 5)
    assert read(amd, msr.MSR_MC0_CTL2) == 0


def test_tsc_aux_is_there_with_rdtscp() -> None:
    vcpu = FakeVcpu()
    write_msr(vcpu, msr.MSR_TSC_AUX, 0xFFFFFFFF)
    assert (vcpu.tsc_aux, read(vcpu, msr.MSR_TSC_AUX)) == (0xFFFFFFFF, 0xFFFFFFFF)
    with pytest.raises(XenError):
        write_msr(vcpu, msr.MSR_TSC_AUX, 1 << 32)
    vcpu.has_rdtscp = False
    assert read(vcpu, msr.MSR_TSC_AUX) == FAULT
    assert outcome_of_write(vcpu, msr.MSR_TSC_AUX) == FAULT


def test_cpuid_faulting_is_intels() -> None:
    vcpu = FakeVcpu()
    write_msr(vcpu, msr.MSR_MISC_FEATURES_ENABLES, 1)
    assert (vcpu.cpuid_faulting, read(vcpu, msr.MSR_MISC_FEATURES_ENABLES)) == (True, 1)
    write_msr(vcpu, msr.MSR_MISC_FEATURES_ENABLES, 0)
    assert vcpu.cpuid_faulting is False
    with pytest.raises(XenError):
        write_msr(FakeVcpu(cpu_vendor="AuthenticAMD"), msr.MSR_MISC_FEATURES_ENABLES, 1)


def test_older_amd_families() -> None:
    vcpu = FakeVcpu(cpu_vendor="AuthenticAMD")
    vcpu.cpu_family = 0xF
    assert read(vcpu, msr.MSR_K8_HWCR) == 0
    assert read(vcpu, msr.MSR_FAM10H_MMIO_CONF_BASE) == FAULT
    vcpu.cpu_family = 0x10
    assert read(vcpu, msr.MSR_FAM10H_MMIO_CONF_BASE) == 0
    assert outcome_of_write(vcpu, msr.MSR_FAM10H_MMIO_CONF_BASE) == VANISHES


def test_a_guest_without_a_handler_reads_zero_in_what_the_machine_has() -> None:
    vcpu = FakeVcpu()
    vcpu.has_exception_handler = False
    assert read(vcpu, 0xC0000082) == 0
    assert read(vcpu, 0x40000001) == FAULT
    assert outcome_of_write(vcpu, 0xC0000082) == FAULT
