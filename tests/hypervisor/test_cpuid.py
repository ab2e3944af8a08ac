# SPDX-License-Identifier: GPL-2.0-or-later
"""CPUID as a PV guest sees it."""

from __future__ import annotations

import struct

import pytest

from pyxen.hypervisor.cpuid import FORCED_CPUID, CpuidPolicy, Leaf, is_forced_cpuid
from pyxen.hypervisor.version import XEN_MAJOR, XEN_MINOR

ONES = 0xFFFFFFFF
INTEL = struct.unpack("<3I", b"GenuntelineI")  # ebx, ecx, edx
AMD = struct.unpack("<3I", b"AuthcAMDenti")


def policy(vendor: tuple[int, ...] = INTEL, **leaves: Leaf) -> CpuidPolicy:
    """A policy over a CPU that has every feature there is, and answers any leaf."""

    def host_leaf(leaf: int, subleaf: int) -> Leaf:
        if leaf in (0, 0x80000000):
            return leaf + 0x1F, vendor[0], vendor[1], vendor[2]
        return leaves.get(f"leaf_{leaf:x}", (ONES, ONES, ONES, ONES))

    return CpuidPolicy(
        host_leaf,
        tsc_khz=2_500_000,
        tsc_to_system_mul=0xCCCCCCCC,
        tsc_shift=-1,
        machine_frames=0x20000,
    )


def has(word: int, *bits: int) -> bool:
    return all(word >> bit & 1 for bit in bits)


def lacks(word: int, *bits: int) -> bool:
    return not any(word >> bit & 1 for bit in bits)


def test_vendor_and_largest_leaves() -> None:
    assert policy().vendor == "GenuineIntel"
    assert policy(AMD).vendor == "AuthenticAMD"
    assert policy().leaf(0, 0) == (7, *INTEL)
    assert policy().leaf(0x80000000, 0)[0] == 0x80000008


def test_a_smaller_cpu_keeps_its_largest_leaves() -> None:
    small = CpuidPolicy(lambda leaf, _: (leaf | 1, 2, 3, 4), 1, 1, 0, 1)
    assert small.leaf(0, 0)[0] == 1
    assert small.leaf(2, 0) == (0, 0, 0, 0)
    assert small.leaf(0x80000000, 0)[0] == 0x80000001
    assert small.leaf(0x80000002, 0) == (0, 0, 0, 0)


@pytest.mark.parametrize("vendor", (INTEL, AMD))
def test_features_of_leaf_1(vendor: tuple[int, ...]) -> None:
    _, ebx, ecx, edx = policy(vendor).leaf(1, 0)
    assert ebx >> 24 == 0, "the APIC number of every PV vCPU is 0"
    assert has(ecx, 0, 9, 13, 19, 20, 23), "SSE3 SSSE3 CX16 SSE4.1 SSE4.2 POPCNT"
    assert has(ecx, 31), "a hypervisor is present"
    assert lacks(ecx, 3, 5, 17, 21, 24, 26, 27, 28), "MONITOR VMX PCID X2APIC XSAVE AVX"
    assert has(edx, 0, 4, 5, 6, 8, 15, 24, 25, 26), "FPU TSC MSR PAE CX8 CMOV FXSR SSE SSE2"
    assert lacks(edx, 1, 3, 7, 9, 12, 13, 14, 17, 22), "VME PSE MCE APIC MTRR PGE MCA PSE36 ACPI"


def test_sysenter_is_intels() -> None:
    assert has(policy(INTEL).leaf(1, 0)[3], 11)
    assert lacks(policy(AMD).leaf(1, 0)[3], 11)


def test_features_of_leaf_7() -> None:
    expected = 1 << 3 | 1 << 8 | 1 << 9 | 1 << 18 | 1 << 19
    assert policy().leaf(7, 0) == (0, expected, 0, 0)
    assert policy().leaf(7, 1) == (0, 0, 0, 0)


def test_a_feature_that_the_cpu_lacks_is_not_shown() -> None:
    bare = policy(leaf_1=(0, 0, 0, 0), leaf_7=(0, 0, 0, 0))
    assert bare.leaf(1, 0) == (0, 0, 1 << 31, 0)
    assert bare.leaf(7, 0) == (0, 0, 0, 0)


def test_extended_features() -> None:
    _, _, ecx, edx = policy().leaf(0x80000001, 0)
    assert has(ecx, 0, 5), "LAHF ABM"
    assert lacks(ecx, 2), "SVM"
    assert has(edx, 11, 20, 29), "SYSCALL NX LM"
    assert lacks(edx, 3, 13, 17, 26, 27), "PSE PGE PSE36 PAGE1GB RDTSCP"


def test_amd_repeats_the_shown_part_of_leaf_1() -> None:
    assert lacks(policy(INTEL).leaf(0x80000001, 0)[3], 0, 4, 5, 6, 8, 15, 24)
    edx = policy(AMD).leaf(0x80000001, 0)[3]
    assert has(edx, 0, 4, 5, 6, 8, 15, 24)
    assert lacks(edx, 1, 3, 7, 9, 12, 13, 14, 17)
    assert has(edx, 11), "bit 11 is SYSCALL here"


def test_power_and_address_leaves() -> None:
    assert policy().leaf(0x80000007, 0) == (0, 0, 0, 0)
    assert policy(leaf_80000008=(0xFF3028, 1, 2, 3)).leaf(0x80000008, 0) == (0x3028, 0, 0, 0)


@pytest.mark.parametrize("leaf", (3, 5, 6, 8, 0xA, 0xB, 0xD, 0x80000009, 0x8000000A, ONES))
def test_leaves_that_a_guest_does_not_see(leaf: int) -> None:
    assert policy().leaf(leaf, 0) == (0, 0, 0, 0)


def test_xen_leaves() -> None:
    shown = policy()
    largest, ebx, ecx, edx = shown.leaf(0x40000000, 0)
    assert largest == 0x40000005
    assert struct.pack("<3I", ebx, ecx, edx) == b"XenVMMXenVMM"
    assert shown.leaf(0x40000001, 0) == (XEN_MAJOR << 16 | XEN_MINOR, 0, 0, 0)
    assert shown.leaf(0x40000002, 0) == (1, 0x40000000, 1, 0)
    assert shown.leaf(0x40000003, 0) == (0, 0, 2_500_000, 0)
    assert shown.leaf(0x40000003, 1) == (0, 0, 0xCCCCCCCC, ONES)
    assert shown.leaf(0x40000003, 2) == (2_500_000, 0, 0, 0)
    assert shown.leaf(0x40000004, 0) == (0, 0, 0, 0)
    assert shown.leaf(0x40000005, 0) == (0, 29, 0, 0)
    for absent in (0x40000006, 0x400000FF, 0x40000100):
        assert shown.leaf(absent, 0) == (0, 0, 0, 0)


def test_forced_cpuid() -> None:
    assert bytes.fromhex("0f0b78656e0fa2") == FORCED_CPUID
    assert is_forced_cpuid(FORCED_CPUID + b"\x90" * 8)
    assert not is_forced_cpuid(FORCED_CPUID[:6])
    assert not is_forced_cpuid(b"\x90" + FORCED_CPUID)
