# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``pyxen top`` tells below a domain: its vCPUs and devices, in xentop's lines or in those of
the full screen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pyxen.cli.top_columns import View, printable, vcpu_time
from pyxen.toolstack.usage import Sample, Usage

_SECOND: Final = 10**9
_SECTOR: Final = 512
_VCPUS_IN_LINE: Final = 5


def xentop_details(view: View, usage: Usage) -> Iterator[str]:
    """In xentop's form: all since the start."""
    sample = usage.sample
    if view.vcpus:
        yield "VCPUs(sec): " + "".join(
            ("\n        " if vcpu.index and vcpu.index % _VCPUS_IN_LINE == 0 else "")
            + f" {vcpu.index:2d}: {vcpu.cpu_ns // _SECOND:10d}s"
            for vcpu in sample.info.vcpus
            if vcpu.online
        )
    if view.networks:
        for index, device in enumerate(sample.devices("vif")):
            received, sent = _network(sample, device, "tx"), _network(sample, device, "rx")
            yield f"Net{index} RX: {received}  TX: {sent}"
    if view.vbds:
        for device in sample.devices("vbd"):
            number = int(device.removeprefix("vbd-"))
            yield (
                f"VBD BlkBack {number:4d} [{number >> 8:2x}:{number & 0xFF:2x}]  OO: {0:8d}"
                f"   RD: {sample.count(device, 'reads'):8d}"
                f"   WR: {sample.count(device, 'writes'):8d}"
                f"   RSECT: {sample.count(device, 'bytes_read') // _SECTOR:10d}"
                f"   WSECT: {sample.count(device, 'bytes_written') // _SECTOR:10d}"
            )


def _network(sample: Sample, device: str, way: str) -> str:
    errors = sample.count(device, "tx_refused" if way == "tx" else "rx_failed")
    drops = sample.count(device, f"{way}_dropped") + sample.count(device, f"link_{way}_dropped")
    return (
        f"{sample.count(device, f'{way}_bytes'):8d}bytes "
        f"{sample.count(device, f'{way}_packets'):8d}pkts {errors:8d}err {drops:8d}drop"
    )


def screen_details(view: View, usage: Usage) -> Iterator[str]:
    """A line for each vCPU and device, with rates."""
    sample = usage.sample
    if sample.note:
        yield f"  {printable(sample.note)}"
    if view.vcpus:
        for vcpu in sample.info.vcpus:
            if vcpu.online:
                yield _vcpu_rates(usage, vcpu.index)

    def rate(device: str, counter: str) -> float:
        return usage.rate(lambda sample: sample.count(device, counter))

    if view.networks:
        for device in sample.devices("vif"):
            yield (
                f"  {device}  "
                f"RX: {rate(device, 'tx_bytes') / 1024:8.1f} k/s "
                f"{rate(device, 'tx_packets'):8.1f} pkts/s   "
                f"TX: {rate(device, 'rx_bytes') / 1024:8.1f} k/s "
                f"{rate(device, 'rx_packets'):8.1f} pkts/s"
            )
    if view.vbds:
        for device in sample.devices("vbd"):
            yield (
                f"  {device}  "
                f"RD: {rate(device, 'bytes_read') / 1024:8.1f} k/s "
                f"{rate(device, 'reads'):8.1f} reqs/s   "
                f"WR: {rate(device, 'bytes_written') / 1024:8.1f} k/s "
                f"{rate(device, 'writes'):8.1f} reqs/s"
            )


def _vcpu_rates(usage: Usage, index: int) -> str:
    def used(sample: Sample) -> int:
        return vcpu_time(sample, index, lambda vcpu: vcpu.cpu_ns)

    def stolen(sample: Sample) -> int:
        return vcpu_time(sample, index, lambda vcpu: vcpu.stolen_ns)

    return (
        f"  VCPU {index:3d}: {used(usage.sample) / _SECOND:10.1f} s "
        f"{usage.percent(used):6.1f} %   stolen {usage.percent(stolen):6.1f} %"
    )
