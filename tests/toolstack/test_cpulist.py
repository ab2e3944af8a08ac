# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets of processors, as xl writes them."""

from __future__ import annotations

import os

import pytest

from pyxen.errors import PyxenError
from pyxen.hypervisor.run_queue import ALL
from pyxen.toolstack.config.cpulist import affinity, cpu_numbers, format_cpus, parse_cpus


@pytest.fixture(autouse=True)
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)


@pytest.mark.parametrize(
    ("text", "cpus"),
    (
        ("3", [3]),
        ("0-3,5,^1", [0, 2, 3, 5]),
        ("all,^7", [cpu for cpu in range(16) if cpu != 7]),
        ("3-8,^5", [3, 4, 6, 7, 8]),
        (" 1 , 2", [1, 2]),
        ("1,1-2", [1, 2]),
        ("30", [30]),
    ),
)
def test_what_is_read(text: str, cpus: list[int]) -> None:
    mask = parse_cpus(text)
    assert cpu_numbers(mask) == cpus
    assert affinity(cpus) == mask
    assert parse_cpus(format_cpus(mask)) == mask


def test_all_of_them() -> None:
    assert parse_cpus("all") == parse_cpus("0-15") == parse_cpus("0-500") == ALL
    assert format_cpus(ALL) == "all"
    assert cpu_numbers(ALL) == list(range(16))


@pytest.mark.parametrize(
    ("mask", "text"),
    ((0b1, "0"), (0b1011, "0-1,3"), (0b1010, "1,3"), (0b111100, "2-5")),
)
def test_what_is_printed(mask: int, text: str) -> None:
    assert format_cpus(mask) == text


def test_nodes() -> None:
    """The first node has the first processor, on any machine that tells of nodes."""
    if not os.path.exists("/sys/devices/system/node/node0/cpumap"):
        pytest.skip("this kernel tells of no NUMA nodes")
    assert 0 in cpu_numbers(parse_cpus("nodes:0"))
    assert 0 not in cpu_numbers(parse_cpus("all,^node:0,15"))
    with pytest.raises(PyxenError, match="no NUMA node 999"):
        parse_cpus("node:999")


@pytest.mark.parametrize("text", ("", "x", "1-", "-1", "3-1", "1,,2", ":1", "cpu:1", "^all"))
def test_what_is_none(text: str) -> None:
    with pytest.raises(PyxenError, match="Invalid pcpu range"):
        parse_cpus(text)


def test_what_leaves_nothing() -> None:
    with pytest.raises(PyxenError, match="leaves no processor"):
        parse_cpus("1,^1")
