# SPDX-License-Identifier: GPL-2.0-or-later
"""CPUID as a PV guest sees it."""

from __future__ import annotations

import struct

import pytest

from pyxen.hypervisor.cpuid import FORCED_CPUID, CpuidPolicy, Leaf, is_forced_cpuid
from pyxen.hypervisor.cpuid_names import FIELDS, Place
from pyxen.hypervisor.version import XEN_MAJOR, XEN_MINOR

ONES = 0xFFFFFFFF
INTEL = struct.unpack("<3I", b"GenuntelineI")  # ebx, ecx, edx
AMD = struct.unpack("<3I", b"AuthcAMDenti")


def policy(vendor: tuple[int, ...] = INTEL, **leaves: Leaf) -> CpuidPolicy:
    """A policy over a CPU that has every feature there is, and answers any leaf."""

    def host_leaf(leaf: int, subleaf: int) -> Leaf:
        if leaf in (0, 0x80000000):
            return leaf + 0x2F, vendor[0], vendor[1], vendor[2]
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
    assert policy().leaf(0, 0) == (13, *INTEL)
    assert policy().leaf(0x80000000, 0)[0] == 0x80000008
    assert policy(AMD).leaf(0x80000000, 0)[0] == 0x80000021


def test_a_smaller_cpu_keeps_its_largest_leaves() -> None:
    small = CpuidPolicy(lambda leaf, _: (leaf | 1, 2, 3, 4), 1, 1, 0, 1)
    assert small.leaf(0, 0)[0] == 1
    assert small.leaf(2, 0) == (0, 0, 0, 0)
    assert small.leaf(0x80000000, 0)[0] == 0x80000001
    assert small.leaf(0x80000002, 0) == (0, 0, 0, 0)


# Every feature that has a name in a domain's configuration, and why a PV guest sees it or not on a
# CPU that has them all.
SHOWN = """
    sse3 pclmulqdq ssse3 cmpxchg16 sse4_1 sse4.1 sse4_2 sse4.2 movbe popcnt aes rdrand hypervisor
    fpu de tsc msr pae mce cmpxchg8 apic mca cmov pat clfsh acpi mmx fxsr sse sse2 ss htt
    bmi1 bmi2 erms rtm rdseed adx clflushopt clwb sha
    prefetchwt1 gfni rdpid cldemote fsrm md-clear serialize fzrm fsrs fsrcs mcdt-no
    lahfsahf cmplegacy abm sse4a misalignsse 3dnowprefetch tbm
    syscall nx mmxext ffxsr rdtscp lm 3dnowext 3dnow
    clzero rstr-fp-err-ptrs ssb-no btc-no
"""
ONE_VENDOR = {"sysenter": INTEL, "lfence+": AMD, "nscb": AMD}
HIDDEN = {
    "Xen has it for HVM guests only": """
        vme pse mtrr pge pse36 tsc-deadline page1gb altmovcr8 tsc_adjust smep smap invpcid pcid mpx
        umip pku svm vmx ibrs amd-stibp ibrs-always stibp-always ibrs-fast ibrs-same-mode no-lmsl
        amd-ssbd psfd l1d-flush
    """,
    "Xen has it for no guest": """
        dtes64 monitor dscpl smx est tm2 cntxid xtpr pdcm dca psn ds tm ia64 pbe cmt proc-trace
        cet-ss cet-ibt avx512-fp16 srbds-ctrl core-caps extapic osvw ibs skinit wdt lwp nodeid
        topoext perfctr_core perfctr_nb wbnoinvd ppin
    """,
    "Xen shows it only where the configuration wants it": """
        hle avx512-vp2intersect tsxldtrk arch-caps invtsc
    """,
    "it is CR4's, which cannot have that bit here": "osxsave ospke",
    "without XSAVE there are no such registers": """
        xsave avx avx2 fma f16c xop fma4 vaes vpclmulqdq avx512f avx512dq avx512-ifma avx512pf
        avx512er avx512cd avx512bw avx512vl avx512-vbmi avx512-vbmi2 avx512-vnni avx512-bitalg
        avx512-vpopcntdq avx512-4vnniw avx512-4fmaps avx-vnni avx512-bf16
    """,
    "the guest has no such bit in CR4 here": "fsgsbase",
    "there is no register for it": "ibrsb stibp ssbd ibpb ibpb-ret intel-psfd virt-ssbd",
    "there is no topology": "x2apic",
}
FEATURES = {
    name: (place, bit)
    for name, (place, bit, width) in FIELDS.items()
    if width == 1 and place[0] not in (6, 0x8000000A)  # leaves that are all zeros
}


def shows(vendor: tuple[int, ...], name: str) -> bool:
    (leaf, subleaf, register), bit = FEATURES[name]
    return bool(policy(vendor).leaf(leaf, subleaf or 0)[register] >> bit & 1)


def test_the_table_names_each_feature_once() -> None:
    names = [
        *SHOWN.split(),
        *ONE_VENDOR,
        *(name for text in HIDDEN.values() for name in text.split()),
    ]
    assert sorted(names) == sorted(FEATURES)


@pytest.mark.parametrize("vendor", (INTEL, AMD), ids=("intel", "amd"))
def test_each_feature_is_shown_or_hidden_as_the_table_says(vendor: tuple[int, ...]) -> None:
    assert [name for name in SHOWN.split() if not shows(vendor, name)] == []
    assert [
        name for name in ONE_VENDOR if shows(vendor, name) != (vendor == ONE_VENDOR[name])
    ] == []
    for reason, names in HIDDEN.items():
        assert [name for name in names.split() if shows(vendor, name)] == [], reason


@pytest.mark.parametrize("vendor", (INTEL, AMD), ids=("intel", "amd"))
def test_no_bit_without_a_name_is_shown(vendor: tuple[int, ...]) -> None:
    known: dict[Place, int] = {}
    for place, bit in FEATURES.values():
        known[place] = known.get(place, 0) | 1 << bit
    for (leaf, subleaf, register), bits in known.items():
        value = policy(vendor).leaf(leaf, subleaf or 0)[register]
        if (leaf, register) == (0x80000001, 3) and vendor == AMD:
            value &= ~0x0183F3FF  # what AMD repeats of leaf 1
        if (leaf, register) == (7, 1):
            value &= ~(1 << 6 | 1 << 13)  # how the CPU stores x87 pointers: not a choice
        assert value & ~bits == 0


def test_the_apic_number_of_every_vcpu_is_0() -> None:
    assert policy().leaf(1, 0)[1] >> 24 == 0


def test_family() -> None:
    assert policy(leaf_1=(0x306C4, 0, 0, 0)).family == 6
    assert policy(leaf_1=(0x800F12, 0, 0, 0)).family == 0x17


def test_sysenter_is_intels() -> None:
    assert has(policy(INTEL).leaf(1, 0)[3], 11)
    assert lacks(policy(AMD).leaf(1, 0)[3], 11)


def test_leaf_7_has_as_many_subleaves_as_the_cpu() -> None:
    assert policy().leaf(7, 0)[0] == 2
    assert policy().leaf(7, 3) == (0, 0, 0, 0)
    one = policy(leaf_7=(0, ONES, ONES, ONES))
    assert one.leaf(7, 0)[0] == 0
    assert one.leaf(7, 1) == (0, 0, 0, 0)


def test_a_feature_that_the_cpu_lacks_is_not_shown() -> None:
    bare = policy(leaf_1=(0, 0, 0, 0), leaf_7=(0, 0, 0, 0))
    assert bare.leaf(1, 0) == (0, 0, 1 << 31, 0)
    assert bare.leaf(7, 0) == (0, 0, 0, 0)


def test_amd_repeats_the_shown_part_of_leaf_1() -> None:
    assert lacks(policy(INTEL).leaf(0x80000001, 0)[3], 0, 4, 5, 6, 8, 15, 24)
    edx = policy(AMD).leaf(0x80000001, 0)[3]
    assert has(edx, 0, 4, 5, 6, 8, 15, 24)
    assert lacks(edx, 1, 3, 12, 13, 17)
    assert has(edx, 11), "bit 11 is SYSCALL here"


def test_power_and_address_leaves() -> None:
    assert policy().leaf(0x80000007, 0) == (0, 0, 0, 0)
    assert policy(leaf_80000008=(0xFF3028, 2, 7, 3)).leaf(0x80000008, 0) == (0x3028, 0, 0, 0)
    assert policy(AMD, leaf_80000008=(0xFF3028, 2, 7, 3)).leaf(0x80000008, 0) == (0x3028, 0, 7, 0)


@pytest.mark.parametrize(
    "leaf", (3, 5, 6, 8, 0xA, 0xB, 0xD, 0x80000009, 0x8000000A, 0x80000022, ONES)
)
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


@pytest.mark.parametrize("vendor", [INTEL, AMD])
def test_ecx_matters_only_where_it_is_said(vendor: tuple[int, ...]) -> None:
    def host_leaf(leaf: int, subleaf: int) -> Leaf:
        if leaf in (0, 0x80000000):
            return leaf + 0x2F, *vendor
        with_subleaves = leaf in (4, 7, 0xB, 0xD, 0x8000001D)
        return (ONES ^ subleaf,) * 4 if with_subleaves else (ONES,) * 4

    overrides: dict[Place, str] = {(9, 3, 0): "1" * 32, (1, None, 2): "k" * 32}
    for each in (policy(vendor), CpuidPolicy(host_leaf, 1, 1, 0, 1, overrides)):
        leaves = [first + leaf for first in (0, 0x40000000, 0x80000000) for leaf in range(0x30)]
        for leaf in set(leaves) - each.leaves_with_subleaves:
            assert each.leaf(leaf, 3) == each.leaf(leaf, 0)
    assert {4, 7, 9, 0x40000003} <= each.leaves_with_subleaves


def test_forced_cpuid() -> None:
    assert bytes.fromhex("0f0b78656e0fa2") == FORCED_CPUID
    assert is_forced_cpuid(FORCED_CPUID + b"\x90" * 8)
    assert not is_forced_cpuid(FORCED_CPUID[:6])
    assert not is_forced_cpuid(b"\x90" + FORCED_CPUID)
