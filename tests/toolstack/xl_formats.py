# SPDX-License-Identifier: GPL-2.0-or-later
"""The formats in which xl of Xen 4.17 prints, recorded as those of C's ``printf``."""

from __future__ import annotations

import re
from typing import Final

LIST_HEADER: Final = "Name                                        ID   Mem VCPUs\tState\tTime(s)"
LIST: Final = "%-40s %5d %5lu %5d     %c%c%c%c%c%c  %8.1f"
LIST_VERBOSE_HEADER: Final = "   UUID                            Reason-Code\tSecurity Label"
LIST_VERBOSE: Final = " %s %8s %16s"
LIST_CONTEXT_HEADER: Final = "   Security Label"
LIST_CONTEXT: Final = " %16s"
LIST_CPUPOOL_HEADER: Final = "         Cpupool"
LIST_CPUPOOL: Final = "%16s"
LIST_NUMA_HEADER: Final = " NODE Affinity"
LIST_NUMA: Final = " %s"
LIST_CLAIM_HEADER: Final = "  Claimed"
LIST_CLAIM: Final = " %5lu"
VM_LIST_HEADER: Final = "UUID                                  ID    name"
VM_LIST: Final = "%s  %d    %-30s"
VCPU_LIST_HEADER: Final = (
    "Name                                ID  VCPU   CPU State   Time(s) Affinity (Hard / Soft)"
)
VCPU_LIST_ONLINE: Final = "%-32s %5u %5u%5u %3c%c- %9.1f  %s / %s"
UPTIME_HEADER: Final = "Name                                ID Uptime"
UPTIME: Final = "%-33s %4d %s"
UPTIME_SHORT: Final = " %s up %s, %s (%d)"
BLOCK_LIST_HEADER: Final = "Vdev  BE  handle state evt-ch ring-ref BE-path                       "
BLOCK_LIST: Final = "%-5d %-3d %-6d %-5d %-6d %-8d %-30s"
NETWORK_LIST_HEADER: Final = (
    "Idx BE Mac Addr.         handle state evt-ch   tx-/rx-ring-ref BE-path                       "
)
NETWORK_LIST: Final = "%-3d %-2d %17s%6d %5d %6d %5d/%-11d %-30s"
DMESG: Final = "(XEN) [%04u-%02u-%02u %02u:%02u:%02u] %s"

_SPECIFIER: Final = re.compile(r"%-?0?(\d*)(?:\.\d+)?l*([cdfsu])")
_LOOSELY: Final = {
    "c": r" *(\S)",
    "d": r" *(-?\d+) *?",
    "f": r" *(\d+\.\d+) *?",
    "s": r" *(\S.*?) *",
    "u": r" *(\d+) *?",
}
_TYPES: Final = {"c": str, "d": int, "f": float, "s": str, "u": int}


def values(line: str, form: str) -> list[str | int | float]:
    """What this line tells, if ``printf`` would have printed it by this format, blanks included."""
    pattern, kinds, end = "", [], 0
    for match in _SPECIFIER.finditer(form):
        padded = match[2] != "s" or match[1]
        pattern += re.escape(form[end : match.start()])
        pattern += _LOOSELY[match[2]] if padded else "(.*?)"
        kinds.append(_TYPES[match[2]])
        end = match.end()
    found = re.fullmatch(pattern + re.escape(form[end:]), line)
    assert found, (line, form)
    told = [kind(text) for kind, text in zip(kinds, found.groups(), strict=True)]
    assert form % tuple(told) == line
    return told
