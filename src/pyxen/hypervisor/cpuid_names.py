# SPDX-License-Identifier: GPL-2.0-or-later
"""The names of CPUID's fields, as ``cpuid=`` in a domain's configuration has them (xl.cfg(5)).

A place is (leaf, subleaf or None where the leaf has none, register): 0 is eax, 3 edx.
"""

from __future__ import annotations

from typing import Final

Place = tuple[int, int | None, int]

_BITS: Final[dict[Place, str]] = {
    (0x1, None, 2): (
        "sse3:0 pclmulqdq:1 dtes64:2 monitor:3 dscpl:4 vmx:5 smx:6 est:7 tm2:8 ssse3:9 cntxid:10 "
        "fma:12 cmpxchg16:13 xtpr:14 pdcm:15 pcid:17 dca:18 sse4_1:19 sse4.1:19 sse4_2:20 "
        "sse4.2:20 x2apic:21 movbe:22 popcnt:23 tsc-deadline:24 aes:25 xsave:26 osxsave:27 avx:28 "
        "f16c:29 rdrand:30 hypervisor:31"
    ),
    (0x1, None, 3): (
        "fpu:0 vme:1 de:2 pse:3 tsc:4 msr:5 pae:6 mce:7 cmpxchg8:8 apic:9 sysenter:11 mtrr:12 "
        "pge:13 mca:14 cmov:15 pat:16 pse36:17 psn:18 clfsh:19 ds:21 acpi:22 mmx:23 fxsr:24 "
        "sse:25 sse2:26 ss:27 htt:28 tm:29 ia64:30 pbe:31"
    ),
    (0x6, None, 0): ("arat:2"),
    (0x7, 0, 1): (
        "fsgsbase:0 tsc_adjust:1 bmi1:3 hle:4 avx2:5 smep:7 bmi2:8 erms:9 invpcid:10 rtm:11 "
        "cmt:12 mpx:14 avx512f:16 avx512dq:17 rdseed:18 adx:19 smap:20 avx512-ifma:21 "
        "clflushopt:23 clwb:24 proc-trace:25 avx512pf:26 avx512er:27 avx512cd:28 sha:29 "
        "avx512bw:30 avx512vl:31"
    ),
    (0x7, 0, 2): (
        "prefetchwt1:0 avx512-vbmi:1 umip:2 pku:3 ospke:4 avx512-vbmi2:6 cet-ss:7 gfni:8 vaes:9 "
        "vpclmulqdq:10 avx512-vnni:11 avx512-bitalg:12 avx512-vpopcntdq:14 rdpid:22 cldemote:25"
    ),
    (0x7, 0, 3): (
        "avx512-4vnniw:2 avx512-4fmaps:3 fsrm:4 avx512-vp2intersect:8 srbds-ctrl:9 md-clear:10 "
        "serialize:14 tsxldtrk:16 cet-ibt:20 avx512-fp16:23 ibrsb:26 stibp:27 l1d-flush:28 "
        "arch-caps:29 core-caps:30 ssbd:31"
    ),
    (0x7, 1, 0): ("avx-vnni:4 avx512-bf16:5 fzrm:10 fsrs:11 fsrcs:12"),
    (0x7, 2, 3): ("intel-psfd:0 mcdt-no:5"),
    (0x80000001, None, 2): (
        "lahfsahf:0 cmplegacy:1 svm:2 extapic:3 altmovcr8:4 abm:5 sse4a:6 misalignsse:7 "
        "3dnowprefetch:8 osvw:9 ibs:10 xop:11 skinit:12 wdt:13 lwp:15 fma4:16 nodeid:19 tbm:21 "
        "topoext:22 perfctr_core:23 perfctr_nb:24"
    ),
    (0x80000001, None, 3): (
        "syscall:11 nx:20 mmxext:22 ffxsr:25 page1gb:26 rdtscp:27 lm:29 3dnowext:30 3dnow:31"
    ),
    (0x80000007, None, 3): ("invtsc:8"),
    (0x80000008, None, 1): (
        "clzero:0 rstr-fp-err-ptrs:2 wbnoinvd:9 ibpb:12 ibrs:14 amd-stibp:15 ibrs-always:16 "
        "stibp-always:17 ibrs-fast:18 ibrs-same-mode:19 no-lmsl:20 ppin:23 amd-ssbd:24 "
        "virt-ssbd:25 ssb-no:26 psfd:28 btc-no:29 ibpb-ret:30"
    ),
    (0x8000000A, None, 3): (
        "svm_npt:0 svm_lbrv:1 svm_nrips:3 svm_tscrate:4 svm_vmcbclean:5 svm_decode:7 "
        "svm_pausefilt:10"
    ),
    (0x80000021, None, 0): ("lfence+:2 nscb:6"),
}

FIELDS: Final[dict[str, tuple[Place, int, int]]] = {
    "maxleaf": ((0x0, None, 0), 0, 32),
    "stepping": ((0x1, None, 0), 0, 4),
    "model": ((0x1, None, 0), 4, 8),
    "family": ((0x1, None, 0), 8, 8),
    "brandid": ((0x1, None, 1), 0, 8),
    "clflush": ((0x1, None, 1), 8, 8),
    "proccount": ((0x1, None, 1), 16, 8),
    "localapicid": ((0x1, None, 1), 24, 8),
    "procpkg": ((0x4, 0, 0), 26, 6),
    "nc": ((0x80000008, None, 2), 0, 8),
    "apicidsize": ((0x80000008, None, 2), 12, 4),
    "maxhvleaf": ((0x40000000, None, 0), 0, 8),
}
"""Name -> place, lowest bit, and how many bits; first those of more than one."""

for _place, _names in _BITS.items():
    for _entry in _names.split():
        _name, _, _bit = _entry.rpartition(":")
        FIELDS[_name] = (_place, int(_bit), 1)
