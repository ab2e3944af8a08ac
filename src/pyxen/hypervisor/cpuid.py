# SPDX-License-Identifier: GPL-2.0-or-later
"""What CPUID tells a PV guest.

A guest asks in two ways. Its kernel uses the *forced* CPUID, an illegal instruction followed by the
letters ``xen`` and a CPUID, which arrives as #UD even on CPUs that cannot intercept CPUID. User
programs use the plain instruction. Both get the same answer here: the leaves of the engine's CPU,
less what a PV guest cannot have and what an engine cannot do, and Xen's own leaves.

Xen's leaves begin at 0x40000000 (``public/arch-x86/cpuid.h``). The other rules are those of Xen's
``arch/x86/cpuid.c`` and ``cpu-policy.c``: leaves that do not exist are zero; the APIC number is 0
on every vCPU of a PV domain, and topology is not told; large and global pages, machine check,
MTRRs, APIC and ACPI registers belong to Xen alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pyxen.abi.cpuid import (
    XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD,
    XEN_CPUID_FIRST_LEAF,
    XEN_CPUID_MAX_NUM_LEAVES,
    XEN_CPUID_SIGNATURE_EBX,
    XEN_CPUID_SIGNATURE_ECX,
    XEN_CPUID_SIGNATURE_EDX,
    XEN_CPUID_TSC_MODE_DEFAULT,
)
from pyxen.hypervisor.msr import MSR_XEN_HYPERCALL_PAGE
from pyxen.hypervisor.version import XEN_MAJOR, XEN_MINOR

Leaf = tuple[int, int, int, int]
"""eax, ebx, ecx, edx."""

FORCED_CPUID: Final = b"\x0f\x0bxen\x0f\xa2"
"""``ud2; .ascii "xen"; cpuid``: what stands at RIP at the #UD of a forced CPUID."""

_NOTHING: Final = (0, 0, 0, 0)
_XEN_LEAVES: Final = range(XEN_CPUID_FIRST_LEAF, XEN_CPUID_FIRST_LEAF + 0x200)
_LAST_BASIC_LEAF: Final = 7
_FIRST_EXTENDED_LEAF: Final = 0x80000000
_LAST_EXTENDED_LEAF: Final = 0x80000008


def _bits(*numbers: int) -> int:
    mask = 0
    for number in numbers:
        mask |= 1 << number
    return mask


# Leaf 1, ecx. Without XSAVE there is no AVX, nor FMA and F16C, which use its registers.
_HIDDEN_1C: Final = _bits(
    2,  # DTES64
    3,  # MONITOR
    4,  # DSCPL
    5,  # VMX
    12,  # FMA
    17,  # PCID
    21,  # X2APIC
    24,  # TSC_DEADLINE
    26,  # XSAVE
    27,  # OSXSAVE
    28,  # AVX
    29,  # F16C
)
_HYPERVISOR: Final = 1 << 31

# Leaf 1, edx.
_HIDDEN_1D: Final = _bits(
    1,  # VME
    3,  # PSE
    7,  # MCE
    9,  # APIC
    12,  # MTRR
    13,  # PGE
    14,  # MCA
    17,  # PSE36
    21,  # DS
    22,  # ACPI
)
_SEP: Final = 1 << 11

# Leaf 7, ebx: all that may be seen, of a leaf that mostly names what an emulated CPU lacks.
_SHOWN_7B0: Final = _bits(
    3,  # BMI1
    8,  # BMI2
    9,  # ERMS
    18,  # RDSEED
    19,  # ADX
)

# Leaf 0x80000001.
_HIDDEN_E1C: Final = _bits(2)  # SVM
_HIDDEN_E1D: Final = _bits(
    26,  # PAGE1GB
    27,  # RDTSCP
)
# The bits of edx in which AMD repeats leaf 1, and others have nothing.
_COMMON_1D: Final = 0x0183F3FF

_INVARIANT_TSC: Final = 1 << 8


def is_forced_cpuid(code: bytes) -> bool:
    """Whether the bytes at RIP are a forced CPUID (its length is ``len(FORCED_CPUID)``)."""
    return code.startswith(FORCED_CPUID)


@dataclass(frozen=True)
class CpuidPolicy:
    """The answers for one domain; the same on all its vCPUs.

    ``host_leaf(leaf, subleaf)`` asks the engine's CPU. ``tsc_khz`` is the frequency of the guest's
    TSC; ``tsc_to_system_mul`` and ``tsc_shift`` turn its ticks into nanoseconds as in
    ``vcpu_time_info``. ``machine_frames`` is one more than the highest MFN.
    """

    host_leaf: Callable[[int, int], Leaf]
    tsc_khz: int
    tsc_to_system_mul: int
    tsc_shift: int
    machine_frames: int

    @property
    def vendor(self) -> str:
        """The vendor string, such as "GenuineIntel"."""
        _, ebx, ecx, edx = self.host_leaf(0, 0)
        return b"".join(word.to_bytes(4, "little") for word in (ebx, edx, ecx)).decode("ascii")

    def leaf(self, leaf: int, subleaf: int) -> Leaf:
        """eax, ebx, ecx, edx for the 32-bit values that the guest has in eax and ecx."""
        if leaf <= _LAST_BASIC_LEAF:
            return self._basic_leaf(leaf, subleaf)
        if leaf in _XEN_LEAVES:
            return self._xen_leaf(leaf - XEN_CPUID_FIRST_LEAF, subleaf)
        if _FIRST_EXTENDED_LEAF <= leaf <= _LAST_EXTENDED_LEAF:
            return self._extended_leaf(leaf)
        return _NOTHING

    def _basic_leaf(self, leaf: int, subleaf: int) -> Leaf:
        eax, ebx, ecx, edx = self.host_leaf(leaf, subleaf)
        if leaf == 0:
            return min(eax, _LAST_BASIC_LEAF), ebx, ecx, edx
        if leaf > self.host_leaf(0, 0)[0]:
            return _NOTHING
        if leaf == 1:
            # The top byte of ebx is the APIC number.
            return eax, ebx & 0x00FFFFFF, ecx & ~_HIDDEN_1C | _HYPERVISOR, self._leaf_1_edx(edx)
        if leaf in (2, 4):
            return eax, ebx, ecx, edx
        if leaf == 7 and subleaf == 0:
            return 0, ebx & _SHOWN_7B0, 0, 0
        # 3 is the serial number, 5 MONITOR, 6 thermal and power management.
        return _NOTHING

    def _leaf_1_edx(self, edx: int) -> int:
        shown = edx & ~_HIDDEN_1D
        # SYSENTER works in long mode on Intel's CPUs only.
        return shown if self.vendor == "GenuineIntel" else shown & ~_SEP

    def _extended_leaf(self, leaf: int) -> Leaf:
        eax, ebx, ecx, edx = self.host_leaf(leaf, 0)
        if leaf == _FIRST_EXTENDED_LEAF:
            return min(eax, _LAST_EXTENDED_LEAF), ebx, ecx, edx
        if leaf > self.host_leaf(_FIRST_EXTENDED_LEAF, 0)[0]:
            return _NOTHING
        if leaf == 0x80000001:
            edx &= ~(_HIDDEN_E1D | _COMMON_1D)
            if self.vendor == "AuthenticAMD":
                edx |= self._leaf_1_edx(self.host_leaf(1, 0)[3]) & _COMMON_1D
            return eax, ebx, ecx & ~_HIDDEN_E1C, edx
        if leaf == 0x80000007:
            return 0, 0, 0, edx & _INVARIANT_TSC
        if leaf == 0x80000008:
            return eax & 0xFFFF, 0, 0, 0  # the widths of addresses
        return eax, ebx, ecx, edx

    def _xen_leaf(self, number: int, subleaf: int) -> Leaf:
        """Leaf 0x40000000 + ``number``."""
        if number == 0:
            return (
                XEN_CPUID_FIRST_LEAF + XEN_CPUID_MAX_NUM_LEAVES,
                XEN_CPUID_SIGNATURE_EBX,
                XEN_CPUID_SIGNATURE_ECX,
                XEN_CPUID_SIGNATURE_EDX,
            )
        if number == 1:
            return XEN_MAJOR << 16 | XEN_MINOR, 0, 0, 0
        if number == 2:
            # One hypercall page, and the register that fills it.
            return 1, MSR_XEN_HYPERCALL_PAGE, XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD, 0
        if number == 3:
            return self._time_leaf(subleaf)
        if number == 5 and subleaf == 0:
            return 0, (self.machine_frames - 1).bit_length() + 12, 0, 0
        # 4 tells of HVM features, which a PV domain has not.
        return _NOTHING

    def _time_leaf(self, subleaf: int) -> Leaf:
        if subleaf == 0:
            # Neither emulated nor promised to be stable; never migrated.
            return 0, XEN_CPUID_TSC_MODE_DEFAULT, self.tsc_khz, 0
        if subleaf == 1:
            # The guest's TSC starts at 0 with an offset of 0; a negative shift is a 32-bit number.
            return 0, 0, self.tsc_to_system_mul, self.tsc_shift & 0xFFFFFFFF
        if subleaf == 2:
            return self.tsc_khz, 0, 0, 0
        return _NOTHING
