# SPDX-License-Identifier: GPL-2.0-or-later
"""Which model-specific registers a PV guest kernel may read and write, and what they hold.

RDMSR and WRMSR trap. Xen virtualises the segment bases, shows a few registers that describe the
machine, lets harmless writes vanish, and answers all others with a general protection fault, which
guests expect when they probe. Registers that have hypercalls (LSTAR and the like) are among those
that fault: a PV kernel does not need them.

Rules: Xen's ``guest_rdmsr``/``guest_wrmsr`` (``arch/x86/msr.c``) and ``read_msr``/``write_msr``
(``arch/x86/pv/emul-priv-op.c``), for a domain that is not the hardware domain, without a virtual
PMU, on the CPU that ``cpuid`` describes: no speculation controls. Machine check is virtual
(``arch/x86/cpu/mcheck/vmce.c``): there are two banks in which no error is ever found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct, field

from pyxen.abi.cpuid import XEN_CPUID_FIRST_LEAF
from pyxen.abi.errno import EINVAL, EPERM
from pyxen.errors import XenError

if TYPE_CHECKING:
    from pyxen.engine.protocol import Registers

MSR_P5_MC_ADDR: Final = 0x0
MSR_P5_MC_TYPE: Final = 0x1
MSR_TSC: Final = 0x10
MSR_PLATFORM_ID: Final = 0x17
MSR_APIC_BASE: Final = 0x1B
MSR_FEATURE_CONTROL: Final = 0x3A
MSR_PATCHLEVEL: Final = 0x8B
MSR_P6_PERFCTR: Final = 0xC1
MSR_PLATFORM_INFO: Final = 0xCE
MSR_MPERF: Final = 0xE7
MSR_APERF: Final = 0xE8
MSR_MISC_FEATURES_ENABLES: Final = 0x140
MSR_MCG_CAP: Final = 0x179
MSR_MCG_STATUS: Final = 0x17A
MSR_MCG_CTL: Final = 0x17B
MSR_P6_EVNTSEL: Final = 0x186
MSR_PERF_STATUS: Final = 0x198
MSR_PERF_CTL: Final = 0x199
MSR_THERM_CONTROL: Final = 0x19A
MSR_THERM_STATUS: Final = 0x19C
MSR_MISC_ENABLE: Final = 0x1A0
MSR_ENERGY_PERF_BIAS: Final = 0x1B0
MSR_PAT: Final = 0x277
MSR_MC0_CTL2: Final = 0x280
MSR_FIXED_CTR0: Final = 0x309
MSR_PERF_CAPABILITIES: Final = 0x345
MSR_FIXED_CTR_CTRL: Final = 0x38D
MSR_MC0_CTL: Final = 0x400
MSR_EFER: Final = 0xC0000080
MSR_FS_BASE: Final = 0xC0000100
MSR_GS_BASE: Final = 0xC0000101
MSR_SHADOW_GS_BASE: Final = 0xC0000102
MSR_TSC_AUX: Final = 0xC0000103
MSR_K7_EVNTSEL: Final = 0xC0010000
MSR_K8_HWCR: Final = 0xC0010015
MSR_AMD_NB_CFG: Final = 0xC001001F
MSR_K7_FID_VID_CTL: Final = 0xC0010041
MSR_FAM10H_MMIO_CONF_BASE: Final = 0xC0010058
MSR_K8_PSTATE_LIMIT: Final = 0xC0010061
MSR_FAM15H_EVNTSEL: Final = 0xC0010200
MSR_AMD_DE_CFG: Final = 0xC0011029

MSR_XEN_HYPERCALL_PAGE: Final = XEN_CPUID_FIRST_LEAF
"""Write-only in effect: the page that it names is filled with hypercall stubs. CPUID leaf +2 tells
its number."""

PAT: Final = 0x0000_0501_0007_0406
"""The memory types that the page-table bits PAT, PCD and PWT select, from entry 0: WB, WT, UC-, UC,
WC, WP, UC, UC. Fixed by Xen, and part of its interface to guests."""

EFER: Final = 0xD01
"""SCE, LME, LMA, NX: what a 64-bit guest finds, and the only value that it may write."""

_APIC_BASE: Final = 0xFEE0_0000 | 1 << 11  # enabled
_APIC_BASE_BOOT_CPU: Final = 1 << 8
_FEATURE_CONTROL_LOCK: Final = 1
_LFENCE_SERIALISES: Final = 1 << 1
_HWCR_TSC_FREQ_SEL: Final = 1 << 24
CPUID_FAULTING: Final = 1 << 0
"""In MISC_FEATURES_ENABLES: CPUID is a general protection fault in user mode."""
_PLATFORM_INFO_CPUID_FAULTING: Final = 1 << 31

_MC_BANKS: Final = 2
# Software recovery, a corrected-error count, threshold status: see the SDM, 15.3.1.1.
_MCG_CAP_INTEL: Final = _MC_BANKS | 1 << 10 | 1 << 11 | 1 << 24
_ALL_ONES: Final = (1 << 64) - 1
_CTL2: Final = range(MSR_MC0_CTL2, MSR_MC0_CTL2 + 32)
_BANKS: Final = range(MSR_MC0_CTL, MSR_MC0_CTL + 32 * 4)
_MACHINE_CHECK: Final = (
    frozenset((MSR_P5_MC_ADDR, MSR_P5_MC_TYPE, MSR_MCG_CAP, MSR_MCG_STATUS, MSR_MCG_CTL))
    | frozenset(_CTL2)
    | frozenset(_BANKS)
)
# No branch trace store, no event-based sampling, no xTPR messages. Bit 0, fast string operations,
# is clear: for an emulated CPU other loops are faster, and guests choose by this bit.
_MISC_ENABLE: Final = 1 << 11 | 1 << 12 | 1 << 23

_INTEL_PMU: Final = (
    frozenset(range(MSR_P6_PERFCTR, MSR_P6_PERFCTR + 8))
    | frozenset(range(MSR_P6_EVNTSEL, MSR_P6_EVNTSEL + 4))
    | frozenset(range(MSR_FIXED_CTR0, MSR_FIXED_CTR0 + 3))
    | frozenset(range(MSR_FIXED_CTR_CTRL, MSR_FIXED_CTR_CTRL + 4))
)
_AMD_PMU: Final = frozenset(range(MSR_K7_EVNTSEL, MSR_K7_EVNTSEL + 8)) | frozenset(
    range(MSR_FAM15H_EVNTSEL, MSR_FAM15H_EVNTSEL + 12)
)
# FID/VID control and status; P-state limit, control, status, and definitions 0 to 7.
_AMD_FREQUENCY: Final = frozenset((MSR_K7_FID_VID_CTL, MSR_K7_FID_VID_CTL + 1)) | frozenset(
    range(MSR_K8_PSTATE_LIMIT, MSR_K8_PSTATE_LIMIT + 11)
)

_READABLE: Final = {
    MSR_PATCHLEVEL: 0,
    MSR_PAT: PAT,
    MSR_PERF_CAPABILITIES: 0,
    MSR_XEN_HYPERCALL_PAGE: 0,
    MSR_EFER: EFER,
    MSR_AMD_NB_CFG: 0,
}
_READABLE_INTEL: Final = {
    MSR_PLATFORM_ID: 0,
    MSR_FEATURE_CONTROL: _FEATURE_CONTROL_LOCK,
    MSR_PERF_STATUS: 0,
    MSR_PERF_CTL: 0,
    MSR_THERM_STATUS: 0,
    MSR_MISC_ENABLE: _MISC_ENABLE,
} | dict.fromkeys(_INTEL_PMU, 0)
_READABLE_AMD: Final = {
    MSR_AMD_DE_CFG: _LFENCE_SERIALISES,
} | dict.fromkeys(_AMD_PMU | _AMD_FREQUENCY, 0)

_WRITES_VANISH: Final = frozenset((MSR_MPERF, MSR_APERF, MSR_AMD_NB_CFG))
# Xen lets a write of MISC_ENABLE pass whatever its value, and keeps its own.
_WRITES_VANISH_INTEL: Final = (
    _WRITES_VANISH
    | _INTEL_PMU
    | {
        MSR_PERF_CTL,
        MSR_THERM_CONTROL,
        MSR_ENERGY_PERF_BIAS,
        MSR_MISC_ENABLE,
    }
)
_WRITES_VANISH_AMD: Final = (
    _WRITES_VANISH | _AMD_PMU | _AMD_FREQUENCY | {MSR_K8_HWCR, MSR_AMD_DE_CFG}
)


# Registers of every 64-bit CPU that Xen does not let a guest read: SYSENTER's, SYSCALL's, MTRRs.
_ON_EVERY_CPU: Final = (
    frozenset(range(0x174, 0x177))
    | frozenset(range(0xC0000081, 0xC0000085))
    | frozenset((0xFE, 0x250, 0x258, 0x259, 0x2FF))
    | frozenset(range(0x200, 0x210))
    | frozenset(range(0x268, 0x270))
)


class VcpuMsrs(Struct):
    """What a vCPU has written to its registers, as far as it is kept here."""

    misc_features_enables: int = 0
    tsc_aux: int = 0
    mcg_status: int = 0
    mc_ctl2: list[int] = field(default_factory=lambda: [0] * _MC_BANKS)


class MsrHost(Protocol):
    """What the registers are made of: a virtual CPU that executes in kernel mode."""

    @property
    def registers(self) -> Registers: ...
    @property
    def vcpu_id(self) -> int: ...
    @property
    def cpu_vendor(self) -> str:
        """The vendor string of CPUID: "GenuineIntel" or "AuthenticAMD"."""

    @property
    def cpu_family(self) -> int:
        """The family of CPUID, with the extended family."""

    @property
    def has_rdtscp(self) -> bool:
        """Whether CPUID shows RDTSCP or RDPID, which show TSC_AUX."""

    @property
    def has_exception_handler(self) -> bool:
        """Whether the guest handles a general protection fault."""

    @property
    def msrs(self) -> VcpuMsrs: ...

    user_gs_base: int
    """The GS base of user mode, which SWAPGS would exchange on a bare machine."""

    def read_tsc(self) -> int:
        """The time-stamp counter as the guest sees it."""

    def set_tsc_aux(self, value: int) -> None:
        """Let RDTSCP show this."""

    def set_cpuid_faulting(self, enabled: bool) -> None:
        """Whether CPUID in user mode faults."""

    def write_hypercall_page(self, gfn: int) -> None:
        """Fill the guest's page with hypercall stubs. Raises XenError for a bad page."""


def read_msr(vcpu: MsrHost, index: int) -> int:
    """The 64-bit value of register ``index``. Raises XenError(EPERM) where the guest gets #GP."""
    try:
        return _read_msr(vcpu, index)
    except XenError:
        # So early in a guest's life Xen shows 0 in registers that the machine has.
        if index in _ON_EVERY_CPU and not vcpu.has_exception_handler:
            return 0
        raise


def _read_msr(vcpu: MsrHost, index: int) -> int:
    if index == MSR_FS_BASE:
        return vcpu.registers.fs_base
    if index == MSR_GS_BASE:
        return vcpu.registers.gs_base
    if index == MSR_SHADOW_GS_BASE:
        return vcpu.user_gs_base
    if index == MSR_TSC:
        return vcpu.read_tsc()
    if index == MSR_TSC_AUX and vcpu.has_rdtscp:
        return vcpu.msrs.tsc_aux
    if index == MSR_APIC_BASE:
        return _APIC_BASE | (_APIC_BASE_BOOT_CPU if vcpu.vcpu_id == 0 else 0)
    if index == MSR_PLATFORM_INFO:
        return _PLATFORM_INFO_CPUID_FAULTING if _is_intel(vcpu) else 0
    if index == MSR_MISC_FEATURES_ENABLES:
        return vcpu.msrs.misc_features_enables
    if index in _MACHINE_CHECK:
        return _read_machine_check(vcpu, index)
    value = _READABLE.get(index)
    if value is None and _is_intel(vcpu):
        value = _READABLE_INTEL.get(index)
    elif value is None and _is_amd(vcpu):
        value = _read_amd(vcpu, index)
    if value is None:
        raise XenError(EPERM)
    return value


def _read_amd(vcpu: MsrHost, index: int) -> int | None:
    if index == MSR_K8_HWCR:
        return _HWCR_TSC_FREQ_SEL if vcpu.cpu_family >= 0x10 else 0
    if index == MSR_FAM10H_MMIO_CONF_BASE and _has_mmio_conf_base(vcpu):
        return 0
    return _READABLE_AMD.get(index)


def _has_mmio_conf_base(vcpu: MsrHost) -> bool:
    return 0x10 <= vcpu.cpu_family < 0x17


def _read_machine_check(vcpu: MsrHost, index: int) -> int:
    if index == MSR_MCG_CAP:
        return _MCG_CAP_INTEL if _is_intel(vcpu) else _MC_BANKS
    if index == MSR_MCG_STATUS:
        return vcpu.msrs.mcg_status
    if index in _CTL2[:_MC_BANKS] and _is_intel(vcpu):
        return vcpu.msrs.mc_ctl2[index - MSR_MC0_CTL2]
    if index in _BANKS[: 4 * _MC_BANKS : 4]:
        return _ALL_ONES  # what is reported, MCi_CTL: all
    return 0


def write_msr(vcpu: MsrHost, index: int, value: int) -> None:
    """Write register ``index``. Raises XenError where the guest gets #GP: EPERM for a register
    that it cannot write, EINVAL for a value that the register does not take."""
    if index in (MSR_FS_BASE, MSR_GS_BASE, MSR_SHADOW_GS_BASE):
        if not is_canonical(value):
            raise XenError(EINVAL)
        if index == MSR_FS_BASE:
            vcpu.registers.fs_base = value
        elif index == MSR_GS_BASE:
            vcpu.registers.gs_base = value
        else:
            vcpu.user_gs_base = value
    elif index == MSR_XEN_HYPERCALL_PAGE:
        if value & 0xFFF:  # the number of the page; there is only page 0
            raise XenError(EINVAL)
        vcpu.write_hypercall_page(value >> 12)
    elif index == MSR_EFER:
        # Linux writes back what it has read.
        if value != EFER:
            raise XenError(EINVAL)
    elif index == MSR_TSC_AUX and vcpu.has_rdtscp:
        if value >> 32:
            raise XenError(EINVAL)
        vcpu.msrs.tsc_aux = value
        vcpu.set_tsc_aux(value)
    elif index == MSR_MISC_FEATURES_ENABLES:
        if value & ~(CPUID_FAULTING if _is_intel(vcpu) else 0):
            raise XenError(EINVAL)
        vcpu.msrs.misc_features_enables = value
        vcpu.set_cpuid_faulting(bool(value))
    elif index == MSR_PATCHLEVEL and _is_intel(vcpu):
        if value:
            raise XenError(EINVAL)
    elif index in _MACHINE_CHECK and index not in (MSR_P5_MC_ADDR, MSR_P5_MC_TYPE):
        _write_machine_check(vcpu, index, value)
    elif not _write_vanishes(vcpu, index):
        raise XenError(EPERM)


def _write_vanishes(vcpu: MsrHost, index: int) -> bool:
    if _is_intel(vcpu):
        return index in _WRITES_VANISH_INTEL
    if _is_amd(vcpu):
        if index == MSR_FAM10H_MMIO_CONF_BASE:
            return _has_mmio_conf_base(vcpu)
        return index in _WRITES_VANISH_AMD
    return index == MSR_AMD_NB_CFG


def _write_machine_check(vcpu: MsrHost, index: int, value: int) -> None:
    if index == MSR_MCG_STATUS:
        vcpu.msrs.mcg_status = value
    elif index in _CTL2[:_MC_BANKS] and _is_intel(vcpu):
        vcpu.msrs.mc_ctl2[index - MSR_MC0_CTL2] = value
    elif index in _BANKS[: 4 * _MC_BANKS] and index % 4 and value:
        raise XenError(EINVAL)  # status, address and the rest can only be cleared


def is_canonical(address: int) -> bool:
    """Whether bits 47 to 63 of a linear address are all the same."""
    return address >> 47 in (0, 0x1FFFF)


def _is_intel(vcpu: MsrHost) -> bool:
    return vcpu.cpu_vendor == "GenuineIntel"


def _is_amd(vcpu: MsrHost) -> bool:
    return vcpu.cpu_vendor == "AuthenticAMD"
