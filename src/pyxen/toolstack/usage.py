# SPDX-License-Identifier: GPL-2.0-or-later
"""What the domains of this host use: samples of all of them, and rates between two samples.

All domains are asked at the same time, and none is waited for long: one that is stuck or vanishes
meanwhile costs the others nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, field

from pyxen.errors import PyxenError
from pyxen.toolstack.control.client import ControlClient
from pyxen.toolstack.control.messages import DomainInfo, GetStatistics
from pyxen.toolstack.domains import at_once, host_info, look
from pyxen.toolstack.registry import Entry, Registry

_SECONDS: Final = 1.0
"""So long a domain has for each of two answers."""


class Sample(Struct, frozen=True):
    """What a domain has used up to a moment, ``taken`` in ns of CLOCK_MONOTONIC.

    ``note`` is why it could not be asked, empty for nothing. ``figures`` are those of
    GetStatistics; domain 0 and a domain that could not be asked have none.
    """

    info: DomainInfo
    taken: int
    note: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    def devices(self, kind: str) -> list[str]:
        """The names of those of a kind, such as ``vif-0``, by their numbers."""
        names = [name for name in self.figures.get("devices", ()) if name.startswith(f"{kind}-")]
        return sorted(names, key=lambda name: int(name.removeprefix(f"{kind}-")))

    def count(self, device: str, counter: str) -> int:
        """A counter of a device's back end; 0 if it has none of the name."""
        value: int = self.figures.get("devices", {}).get(device, {}).get(counter, 0)
        return value

    def total(self, kind: str, counter: str) -> int:
        """The same for all devices of a kind."""
        return sum(self.count(device, counter) for device in self.devices(kind))


class Usage(Struct, frozen=True):
    """A domain's sample, with the one before, if there is one."""

    sample: Sample
    before: Sample | None
    host_memory_kib: int

    def rate(self, measure: Callable[[Sample], int]) -> float:
        """How much this has grown in a second; 0 without a sample before."""
        if self.before is None or self.sample.taken <= self.before.taken:
            return 0.0
        grown = measure(self.sample) - measure(self.before)
        return max(0.0, grown * 1e9 / (self.sample.taken - self.before.taken))

    def percent(self, measure: Callable[[Sample], int]) -> float:
        """The same for times in ns, of one processor."""
        return self.rate(measure) / 1e7


def available_memory_kib() -> int:
    """What new domains could have of the host's memory."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0])


def take_samples() -> list[Sample]:
    """All domains, domain 0 first."""
    host = Sample(host_info(), time.monotonic_ns())
    return [host, *at_once(_take, Registry().entries())]


def _take(entry: Entry) -> Sample:
    listed = look(entry, _SECONDS)
    taken = time.monotonic_ns()
    if listed.note:
        return Sample(listed.info, taken, listed.note)
    try:
        with ControlClient(entry.folder, _SECONDS) as client:
            return Sample(listed.info, taken, figures=client.ask(GetStatistics()).figures)
    except PyxenError as error:  # it is being built, or has just ended
        return Sample(listed.info, taken, str(error))


def compare(samples: Sequence[Sample], before: Sequence[Sample]) -> list[Usage]:
    """Each domain with its sample of the last time, if it could be asked then."""
    host_memory = samples[0].info.memory_kib
    known = {sample.info.domid: sample for sample in before if not sample.note}
    return [Usage(sample, known.get(sample.info.domid), host_memory) for sample in samples]
