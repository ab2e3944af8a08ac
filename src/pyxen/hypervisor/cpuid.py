# SPDX-License-Identifier: GPL-2.0-or-later
"""What CPUID tells a PV guest.

A guest asks in two ways. Its kernel uses the *forced* CPUID, an illegal instruction followed by the
letters ``xen`` and a CPUID, which arrives as #UD even on CPUs that cannot intercept CPUID. User
programs use the plain instruction. Both get the same answer here: the leaves of the engine's CPU,
less what a PV guest cannot have and what an engine cannot do, and Xen's own leaves.

Xen's leaves begin at 0x40000000 (``public/arch-x86/cpuid.h``). The other rules are those of Xen's
``arch/x86/cpuid.c`` and ``cpu-policy.c``: leaves that do not exist are zero; the APIC number is 0
on every vCPU of a PV domain, and topology is not told; large and global pages, MTRRs and the like
belong to Xen alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Final

from msgspec import Struct, field

from pyxen.abi.cpuid import (
    XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD,
    XEN_CPUID_FIRST_LEAF,
    XEN_CPUID_MAX_NUM_LEAVES,
    XEN_CPUID_SIGNATURE_EBX,
    XEN_CPUID_SIGNATURE_ECX,
    XEN_CPUID_SIGNATURE_EDX,
    XEN_CPUID_TSC_MODE_DEFAULT,
)
from pyxen.hypervisor.cpuid_names import FIELDS, Place
from pyxen.hypervisor.msr import MSR_XEN_HYPERCALL_PAGE
from pyxen.hypervisor.version import XEN_MAJOR, XEN_MINOR

Leaf = tuple[int, int, int, int]
"""eax, ebx, ecx, edx."""

FORCED_CPUID_PREFIX: Final = 5
FORCED_CPUID: Final = b"\x0f\x0bxen\x0f\xa2"
"""``ud2; .ascii "xen"; cpuid``: what stands at RIP at the #UD of a forced CPUID. The instruction
itself is behind FORCED_CPUID_PREFIX bytes."""

_NOTHING: Final = (0, 0, 0, 0)
_XEN_LEAVES: Final = range(XEN_CPUID_FIRST_LEAF, XEN_CPUID_FIRST_LEAF + 0x200)
_LAST_BASIC_LEAF: Final = 0xD
_LAST_FEATURE_SUBLEAF: Final = 2
_FIRST_EXTENDED_LEAF: Final = 0x80000000
_LAST_EXTENDED_LEAF: Final = 0x80000008
_LAST_EXTENDED_LEAF_AMD: Final = 0x80000021
_LEAVES_WITH_SUBLEAVES: Final = {4, 7, XEN_CPUID_FIRST_LEAF + 3, XEN_CPUID_FIRST_LEAF + 5}


def _bits(*numbers: int) -> int:
    mask = 0
    for number in numbers:
        mask |= 1 << number
    return mask


# What of each register's bits a PV guest sees where the CPU has them. This is Xen's choice
# (``public/arch-x86/cpufeatureset.h``: A), less what is not virtualised here:
# - XSAVE, and with it AVX, AVX2, AVX-512, FMA, FMA4, F16C, XOP and the VEX forms of AES and PCLMUL;
# - FSGSBASE, which would change CR4 on the way to the guest and back;
# - speculation controls (IBRSB, STIBP, SSBD, IBPB, PSFD) and DBEXT, whose registers are not there;
# - X2APIC, as leaf 0xb tells no topology.
_SHOWN_1C: Final = _bits(
    0,  # SSE3
    1,  # PCLMULQDQ
    9,  # SSSE3
    13,  # CX16
    19,  # SSE4_1
    20,  # SSE4_2
    22,  # MOVBE
    23,  # POPCNT
    25,  # AESNI
    30,  # RDRAND
)
_HYPERVISOR: Final = 1 << 31
_SHOWN_1D: Final = _bits(
    0,  # FPU
    2,  # DE
    4,  # TSC
    5,  # MSR
    6,  # PAE
    7,  # MCE
    8,  # CX8
    9,  # APIC: Linux uses Xen's in its place only if it sees one
    11,  # SEP
    14,  # MCA
    15,  # CMOV
    16,  # PAT
    19,  # CLFLUSH
    22,  # ACPI
    23,  # MMX
    24,  # FXSR
    25,  # SSE
    26,  # SSE2
    27,  # SS
    28,  # HTT, as the toolstack wants the CPU's own
)
_SEP: Final = 1 << 11
_SHOWN_7B0: Final = _bits(
    3,  # BMI1
    6,  # FDP_EXCP_ONLY
    8,  # BMI2
    9,  # ERMS
    11,  # RTM
    13,  # NO_FPU_SEL
    18,  # RDSEED
    19,  # ADX
    23,  # CLFLUSHOPT
    24,  # CLWB
    29,  # SHA
)
_SHOWN_7C0: Final = _bits(
    0,  # PREFETCHWT1
    8,  # GFNI
    22,  # RDPID
    25,  # CLDEMOTE
)
_SHOWN_7D0: Final = _bits(
    4,  # FSRM
    10,  # MD_CLEAR
    14,  # SERIALIZE
)
_SHOWN_7A1: Final = _bits(
    10,  # FZRM
    11,  # FSRS
    12,  # FSRCS
)
_SHOWN_7D2: Final = _bits(5)  # MCDT_NO
_SHOWN_E1C: Final = _bits(
    0,  # LAHF_LM
    1,  # CMP_LEGACY, as the toolstack wants the CPU's own
    5,  # ABM
    6,  # SSE4A
    7,  # MISALIGNSSE
    8,  # 3DNOWPREFETCH
    21,  # TBM
)
_RDTSCP: Final = 1 << 27
_SHOWN_E1D: Final = (
    _bits(
        11,  # SYSCALL
        20,  # NX
        22,  # MMXEXT
        25,  # FFXSR
        29,  # LM
        30,  # 3DNOWEXT
        31,  # 3DNOW
    )
    | _RDTSCP
)
_SHOWN_E8B: Final = _bits(
    0,  # CLZERO
    2,  # RSTR_FP_ERR_PTRS
    26,  # SSB_NO
    29,  # BTC_NO
)
_SHOWN_E21A: Final = _bits(
    2,  # LFENCE_DISPATCH
    6,  # NSCB
)
_RDPID: Final = 1 << 22

# The bits of edx in which AMD repeats leaf 1, and others have nothing.
_COMMON_1D: Final = 0x0183F3FF

_INVARIANT_TSC: Final = 1 << 8

# The registers with a bit for each feature. A configuration can take away what is shown, and give
# only what is named here.
_FEATURES: Final = {
    (1, 2): 1 << 21,  # X2APIC, which only says how leaf 0xb is to be read
    (1, 3): 1 << 28,  # HTT
    (7, 0): 0,
    (7, 1): 0,
    (7, 2): 0,
    (7, 3): 0,
    (0x80000001, 2): 1 << 1,  # CMP_LEGACY
    (0x80000001, 3): 0,
    (0x80000007, 3): _INVARIANT_TSC,
    (0x80000008, 1): 0,
    (0x80000021, 0): 0,
}


# A feature of leaf 1, and those that are built on it; in this order.
_DEPENDENTS: Final = {
    "fpu": ("mmx",),
    "tsc": ("rdtscp",),
    "mmx": ("mmxext", "3dnow", "3dnowext"),
    "fxsr": ("sse", "ffxsr"),
    "sse": ("sse2", "misalignsse"),
    "sse2": ("sse3", "aes", "pclmulqdq", "sha", "gfni"),
    "sse3": ("ssse3", "sse4a"),
    "ssse3": ("sse4_1",),
    "sse4_1": ("sse4_2",),
}


def is_forced_cpuid(code: bytes) -> bool:
    """Whether the bytes at RIP are a forced CPUID (its length is ``len(FORCED_CPUID)``)."""
    return code.startswith(FORCED_CPUID)


class CpuidPolicy(Struct, frozen=True, dict=True):
    """The answers for one domain; the same on all its vCPUs.

    ``host_leaf(leaf, subleaf)`` asks the engine's CPU. ``tsc_khz`` is the frequency of the guest's
    TSC; ``tsc_to_system_mul`` and ``tsc_shift`` turn its ticks into nanoseconds as in
    ``vcpu_time_info``. ``machine_frames`` is one more than the highest MFN. ``overrides`` is
    what the configuration wants otherwise: 32 characters for a register, from bit 31 down.
    """

    host_leaf: Callable[[int, int], Leaf]
    tsc_khz: int
    tsc_to_system_mul: int
    tsc_shift: int
    machine_frames: int
    overrides: Mapping[Place, str] = field(default_factory=dict)

    @property
    def vendor(self) -> str:
        """The vendor string, such as "GenuineIntel"."""
        _, ebx, ecx, edx = self.host_leaf(0, 0)
        return b"".join(word.to_bytes(4, "little") for word in (ebx, edx, ecx)).decode("ascii")

    @property
    def family(self) -> int:
        """The family of the CPU, with the extended family."""
        version = self.host_leaf(1, 0)[0]
        family = version >> 8 & 0xF
        return family + (version >> 20 & 0xFF) if family == 0xF else family

    @cached_property
    def leaves_with_subleaves(self) -> frozenset[int]:
        """Those for which ecx matters; programs ask for others with whatever stands in it."""
        configured = {leaf for leaf, subleaf, _ in self.overrides if subleaf is not None}
        return frozenset(_LEAVES_WITH_SUBLEAVES | configured)

    @property
    def has_rdtscp(self) -> bool:
        """Whether there is an instruction that shows TSC_AUX."""
        return bool(self.leaf(0x80000001, 0)[3] & _RDTSCP or self.leaf(7, 0)[2] & _RDPID)

    def leaf(self, leaf: int, subleaf: int) -> Leaf:
        """eax, ebx, ecx, edx for the 32-bit values that the guest has in eax and ecx."""
        if not self.overrides or leaf in _XEN_LEAVES:
            return self._leaf(leaf, subleaf)
        first = _FIRST_EXTENDED_LEAF if leaf >= _FIRST_EXTENDED_LEAF else 0
        if leaf > self._configured(first, 0)[0]:
            return _NOTHING
        values = list(self._configured(leaf, subleaf))
        for name in self._missing():
            (place, of, register), bit, _ = FIELDS[name]
            if place == leaf and of in (None, subleaf):
                values[register] &= ~(1 << bit)
        return values[0], values[1], values[2], values[3]

    def _configured(self, leaf: int, subleaf: int) -> Leaf:
        """With what the configuration wants otherwise."""
        values = list(self._leaf(leaf, subleaf))
        for register in range(4):
            text = self.overrides.get((leaf, subleaf, register))
            if text is None:
                text = self.overrides.get((leaf, None, register))
            if text is not None:
                values[register] = self._override(leaf, subleaf, register, values[register], text)
        return values[0], values[1], values[2], values[3]

    def _missing(self) -> set[str]:
        """Features that cannot be without one that the configuration has taken away."""
        words = self._configured(1, 0)
        missing: set[str] = set()
        for name, dependents in _DEPENDENTS.items():
            (_, _, register), bit, _ = FIELDS[name]
            if name in missing or not words[register] >> bit & 1:
                missing.update(dependents)
        return missing

    def _override(self, leaf: int, subleaf: int, register: int, value: int, text: str) -> int:
        """What the guest sees of a register for which the configuration has ``text``."""
        host = self.host_leaf(leaf, subleaf)[register]
        wanted = 0
        for bit in range(32):
            choice = text[31 - bit]
            source = {"1": 1, "0": 0, "x": value >> bit, "k": host >> bit, "s": host >> bit}[choice]
            wanted |= (source & 1) << bit
        if (leaf, register) in _FEATURES:
            possible = _FEATURES[leaf, register]
            if leaf == 0x80000007:
                possible &= host
            return wanted & (value | possible)
        if leaf in (0, _FIRST_EXTENDED_LEAF) and register == 0:
            return min(wanted, value)
        if leaf == 1:
            return wanted & (0x0FFF0FFF, 0x00FFFFFF)[register]
        return value if leaf == 0x80000008 else wanted

    def _leaf(self, leaf: int, subleaf: int) -> Leaf:
        """What the guest sees unless the configuration has something else."""
        if leaf <= _LAST_BASIC_LEAF:
            return self._basic_leaf(leaf, subleaf)
        if leaf in _XEN_LEAVES:
            return self._xen_leaf(leaf - XEN_CPUID_FIRST_LEAF, subleaf)
        if _FIRST_EXTENDED_LEAF <= leaf <= _LAST_EXTENDED_LEAF_AMD:
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
            return (
                eax & 0x0FFF0FFF,
                ebx & 0x00FFFFFF,
                ecx & _SHOWN_1C | _HYPERVISOR,
                self._leaf_1_edx(edx),
            )
        if leaf == 2 and self.vendor == "GenuineIntel":
            return eax & 0xFFFFFF00 | 1, ebx, ecx, edx  # one query tells it all
        if leaf == 4 and self.vendor == "GenuineIntel":
            return self._cache_leaf(eax, ebx, ecx, edx)
        if leaf == 7:
            return self._features_leaf(subleaf)
        # 3 is the serial number, 5 MONITOR, 6 thermal and power management, 9 cache access of
        # devices, 0xa performance counters, 0xb topology, 0xd XSAVE.
        return _NOTHING

    @staticmethod
    def _cache_leaf(eax: int, ebx: int, ecx: int, edx: int) -> Leaf:
        if eax & 0x1F not in (1, 2, 3):  # data, instructions, both
            return _NOTHING
        return eax & 0xFFFFC3FF, ebx, ecx, edx & 7

    def _leaf_1_edx(self, edx: int) -> int:
        shown = edx & _SHOWN_1D
        # SYSENTER works in long mode on Intel's CPUs only.
        return shown if self.vendor == "GenuineIntel" else shown & ~_SEP

    def _features_leaf(self, subleaf: int) -> Leaf:
        last = min(self.host_leaf(7, 0)[0], _LAST_FEATURE_SUBLEAF)
        if subleaf > last:
            return _NOTHING
        eax, ebx, ecx, edx = self.host_leaf(7, subleaf)
        if subleaf == 0:
            return last, ebx & _SHOWN_7B0, ecx & _SHOWN_7C0, edx & _SHOWN_7D0
        if subleaf == 1:
            return eax & _SHOWN_7A1, 0, 0, 0
        return 0, 0, 0, edx & _SHOWN_7D2

    def _extended_leaf(self, leaf: int) -> Leaf:
        eax, ebx, ecx, edx = self.host_leaf(leaf, 0)
        amd = self.vendor == "AuthenticAMD"
        if leaf == _FIRST_EXTENDED_LEAF:
            # Intel's CPUs repeat no vendor here.
            if amd:
                return min(eax, _LAST_EXTENDED_LEAF_AMD), ebx, ecx, edx
            return min(eax, _LAST_EXTENDED_LEAF), 0, 0, 0
        if leaf > self._extended_leaf(_FIRST_EXTENDED_LEAF)[0]:
            return _NOTHING
        if leaf == 0x80000001:
            edx &= _SHOWN_E1D
            ecx &= _SHOWN_E1C
            if amd:
                edx |= self._leaf_1_edx(self.host_leaf(1, 0)[3]) & _COMMON_1D
                return self.host_leaf(1, 0)[0] & 0x0FFF0FFF, ebx & 0xFF00FFFF, ecx, edx
            return 0, 0, ecx, edx
        if leaf == 0x80000005 and not amd:
            return _NOTHING
        if leaf == 0x80000006 and not amd:
            return 0, 0, ecx, 0
        if leaf == 0x80000007:
            return _NOTHING  # an invariant TSC is told to guests that are not migrated
        if leaf == 0x80000008:
            # The widths of addresses; AMD's number of cores.
            return eax & 0xFFFF, ebx & _SHOWN_E8B, ecx & 0x3F0FF if amd else 0, 0
        if leaf == 0x80000021:
            return eax & _SHOWN_E21A, 0, 0, 0
        if leaf > 0x80000008 and leaf != 0x8000001A:  # 0x1a: hints about performance
            return _NOTHING
        return eax, ebx, ecx, edx

    def _xen_leaf(self, number: int, subleaf: int) -> Leaf:
        """Leaf 0x40000000 + ``number``."""
        limit = self._xen_limit()
        if number > limit:
            return _NOTHING
        if number == 0:
            return (
                XEN_CPUID_FIRST_LEAF + limit,
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

    def _xen_limit(self) -> int:
        """How many of Xen's leaves there are: what the configuration says, within bounds."""
        text = self.overrides.get((XEN_CPUID_FIRST_LEAF, None, 0), "")
        wanted = int(text[-8:].replace("x", "0").replace("k", "0").replace("s", "0") or "0", 2)
        return min(max(wanted, 2), XEN_CPUID_MAX_NUM_LEAVES) if wanted else XEN_CPUID_MAX_NUM_LEAVES

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
