# SPDX-License-Identifier: GPL-2.0-or-later
"""The scenarios of guests/scenarios: kernels that attack the interface.

Each is a kernel of its own, and its head says in lines for machines what is expected:

    // expect: ok                    all its checks hold, and it powers off (the default)
    // expect: crash "some words"    Xen crashes the domain, for a reason with these words in it
    // expect: any                   it may end in whatever way (for random attacks)
    // vcpus: 2
    // variants: NAME, NAME          the same attack in several forms: macros for the compiler

After each run the host process lives, all that is Xen's is as it was, and the audit is clean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from untouched import Machine

from pyxen.testing.kernels import (
    BuildToolsMissing,
    build_kernel,
    check_build_tools,
    prepare_kernel,
)

FOLDER = Path(__file__).parent.parent.parent / "guests" / "scenarios"
TIMEOUT = 60.0

try:
    check_build_tools()
except BuildToolsMissing as missing:
    pytestmark = pytest.mark.skip(str(missing))


@dataclass(frozen=True)
class Scenario:
    """A file and, for one of several forms, its macro."""

    path: Path
    variant: str
    settings: dict[str, str]

    @property
    def name(self) -> str:
        return self.path.stem + (f"-{self.variant}" if self.variant else "")


def read_scenarios() -> list[Scenario]:
    scenarios = []
    for path in sorted(FOLDER.glob("*.c")):
        settings = dict(re.findall(r"^// ([a-z]+): (.*)$", path.read_text(), re.MULTILINE))
        variants = settings.get("variants", "").split(", ")
        scenarios += [Scenario(path, variant, settings) for variant in variants]
    return scenarios


SCENARIOS = read_scenarios()


def test_there_are_enough() -> None:
    assert len({scenario.path for scenario in SCENARIOS}) >= 60


def test_the_one_in_contributing_is_real() -> None:
    text = (FOLDER.parent.parent / "CONTRIBUTING.md").read_text()
    (shown,) = re.findall(r"```c\n(.*?)```", text, re.DOTALL)
    assert shown in {path.read_text() for path in FOLDER.glob("*.c")}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_scenario(scenario: Scenario) -> None:
    kernel = build_kernel(scenario.path, defines=[scenario.variant] if scenario.variant else [])
    with prepare_kernel(kernel, vcpus=int(scenario.settings.get("vcpus", "1"))) as prepared:
        machine = Machine(prepared.domain)
        result = prepared.run(TIMEOUT)
        changes = machine.changes()
    expected = scenario.settings.get("expect", "ok")
    told = f"{result.exit_reason}, {result.crash}\n{result.output[-4000:]}"
    if expected == "ok":
        assert result.crash is None, told
        assert result.exit_reason == "poweroff", told
        assert re.fullmatch(r"ok [1-9]\d* checks", result.lines[-1]), told
    elif expected != "any":
        words = re.fullmatch(r'crash "(.+)"', expected)
        assert words, f"{scenario.path}: expect: {expected}"
        assert result.crash is not None, told
        assert words[1] in result.crash, told
        assert "failed" not in result.output, told
    assert result.exit_reason != "timeout", told
    assert changes == [], told
    assert result.audit == (), told
