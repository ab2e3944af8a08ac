# SPDX-License-Identifier: GPL-2.0-or-later
"""What the domains of this host use, as Prometheus wants to know it.

A domain that cannot be asked has a state and nothing else: to Prometheus a counter that is not
there is missing, and one that is 0 has begun anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pyxen.toolstack.usage import Sample, available_memory_kib, take_samples

STATES = ("running", "blocked", "paused", "shutdown", "crashed", "unknown")
_KIB = 1024
_SECOND = 1e9

Values = Iterable[tuple[tuple[str, ...], float]]
"""The values of a domain, each with those labels that it has besides the domain."""


class DomainCollector(Collector):
    """Asks all domains at each scrape; domain 0 is the host."""

    def collect(self) -> Iterator[Metric]:
        every = take_samples()
        yield _gauge(
            "up",
            "Whether the domain tells how it is",
            (),
            every,
            lambda each: [((), not each.note)],
        )
        yield _gauge("state", "1 for the state of the domain", ("state",), every, _states)
        yield _gauge(
            "start_time_seconds",
            "When the domain began, in seconds since 1970",
            (),
            every,
            lambda each: [((), each.info.started)],
        )
        asked = [each for each in every if not each.note]
        yield from _processors(asked)
        yield from _memory(asked)
        yield from _disks(asked)
        yield from _networks(asked)
        yield from _calls(asked, "hypercall", "hypercalls", "Hypercalls")
        yield from _calls(asked, "trap", "traps", "Traps of the guest")
        yield GaugeMetricFamily(
            "pyxen_host_memory_available_bytes",
            "What new domains could have of the host's memory",
            available_memory_kib() * _KIB,
        )


def state(sample: Sample) -> str:
    """The one of STATES in which a domain is."""
    info = sample.info
    if info.shutdown_reason:
        return "crashed" if info.shutdown_reason == "crash" else "shutdown"
    if sample.note:
        return "unknown"
    if info.paused:
        return "paused"
    return "blocked" if info.blocked else "running"


def _states(sample: Sample) -> Values:
    current = state(sample)
    return [((each,), each == current) for each in STATES]


def _processors(samples: Sequence[Sample]) -> Iterator[Metric]:
    yield _counter(
        "cpu_seconds_total",
        "Processor time of the domain",
        (),
        samples,
        lambda each: [((), each.info.cpu_ns / _SECOND)],
    )

    def run_states(sample: Sample) -> Values:
        for vcpu in sample.info.vcpus:
            times = (vcpu.cpu_ns, vcpu.runnable_ns, vcpu.blocked_ns, vcpu.offline_ns)
            names = ("running", "runnable", "blocked", "offline")
            for name, time in zip(names, times, strict=True):
                yield (str(vcpu.index), name), time / _SECOND

    yield _counter(
        "vcpu_seconds_total",
        "Time of each virtual CPU in each of Xen's run states",
        ("vcpu", "state"),
        samples,
        run_states,
    )
    yield _gauge(
        "vcpu_online",
        "Whether the virtual CPU is online",
        ("vcpu",),
        samples,
        lambda each: [((str(vcpu.index),), vcpu.online) for vcpu in each.info.vcpus],
    )


def _memory(samples: Sequence[Sample]) -> Iterator[Metric]:
    yield _gauge(
        "memory_bytes",
        "Memory that the domain has",
        (),
        samples,
        lambda each: [((), each.info.memory_kib * _KIB)],
    )
    yield _gauge(
        "memory_max_bytes",
        "Memory that the domain may have",
        (),
        samples,
        lambda each: [((), each.info.max_memory_kib * _KIB)],
    )


def _disks(samples: Sequence[Sample]) -> Iterator[Metric]:
    ways = ("read", "write")
    bytes_of = {"read": "bytes_read", "write": "bytes_written"}
    requests_of = {"read": "reads", "write": "writes"}
    yield _of_devices(
        "disk_bytes_total", "Bytes that a disk has moved", samples, "vbd", ways, bytes_of
    )
    yield _of_devices(
        "disk_requests_total", "Requests that a disk has got", samples, "vbd", ways, requests_of
    )


def _networks(samples: Sequence[Sample]) -> Iterator[Metric]:
    ways = ("transmit", "receive")
    for name, told in (("bytes", "Bytes"), ("packets", "Packets")):
        counters = {"transmit": f"tx_{name}", "receive": f"rx_{name}"}
        documentation = f"{told} that a network card has moved, as the guest sees it"
        yield _of_devices(f"network_{name}_total", documentation, samples, "vif", ways, counters)


def _of_devices(
    name: str,
    documentation: str,
    samples: Sequence[Sample],
    kind: str,
    ways: Sequence[str],
    counters: dict[str, str],
) -> Metric:
    return _counter(
        name,
        documentation,
        ("device", "direction"),
        samples,
        lambda each: [
            ((device, way), each.count(device, counters[way]))
            for device in each.devices(kind)
            for way in ways
        ],
    )


def _calls(samples: Sequence[Sample], name: str, figure: str, told: str) -> Iterator[Metric]:
    """Those of which a domain keeps number and time, by name."""
    yield _counter(
        f"{figure}_total",
        told,
        (name,),
        samples,
        lambda each: [((key,), count) for key, (count, _) in each.figures.get(figure, {}).items()],
    )
    yield _counter(
        f"{name}_seconds_total",
        f"{told}: time that they took",
        (name,),
        samples,
        lambda each: [
            ((key,), time / _SECOND) for key, (_, time) in each.figures.get(figure, {}).items()
        ],
    )


def _filled(
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    documentation: str,
    labels: Sequence[str],
    samples: Sequence[Sample],
    values: Callable[[Sample], Values],
) -> Metric:
    metric = kind(f"pyxen_domain_{name}", documentation, labels=("domain", "domid", *labels))
    for sample in samples:
        for further, value in values(sample):
            metric.add_metric((sample.info.name, str(sample.info.domid), *further), value)
    return metric


_gauge = partial(_filled, GaugeMetricFamily)
_counter = partial(_filled, CounterMetricFamily)
