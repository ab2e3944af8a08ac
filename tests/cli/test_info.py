# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen info``: the lines of ``xl info``, and pyxen's own."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import pyxen
from pyxen.cli.info import _kvm
from pyxen.cli.main import main
from pyxen.errors import PyxenError

NAMES = (
    *("host", "release", "version", "machine"),
    *("nr_cpus", "max_cpu_id", "nr_nodes", "cores_per_socket", "threads_per_core", "cpu_mhz"),
    *("hw_caps", "virt_caps", "total_memory", "free_memory", "sharing_freed_memory"),
    *("sharing_used_memory", "outstanding_claims", "free_cpus"),
    *("xen_major", "xen_minor", "xen_extra", "xen_version", "xen_caps", "xen_scheduler"),
    *("xen_pagesize", "platform_params", "xen_changeset", "xen_commandline"),
    *("cc_compiler", "cc_compile_by", "cc_compile_domain", "cc_compile_date", "build_id"),
    "xend_config_format",
)
"""Those of Xen 4.17, in their order."""
OWN = (
    *("pyxen_version", "python", "/dev/kvm", "engine_emulator"),
    *("sandbox_privileges", "sandbox_limits", "sandbox_landlock", "sandbox_seccomp"),
)


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(("info", *arguments)) == 0
    return capsys.readouterr().out


def test_the_lines_of_xl(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys).splitlines()
    assert all(re.match(r"[a-z/_]+ *: ", line) and line[23:25] == ": " for line in lines), lines
    values = {line[:23].rstrip(): line[25:] for line in lines}
    assert tuple(values) == NAMES + OWN
    assert values["release"] == os.uname().release
    assert 1 <= int(values["nr_cpus"]) <= int(values["max_cpu_id"]) + 1
    assert re.fullmatch(r"\d+\.\d{3}", values["cpu_mhz"])
    words = [int(word, 16) for word in values["hw_caps"].split(":")]
    assert len(words) == 8
    assert words[0] >> 4 & 1, "every processor has a time-stamp counter"
    assert words[2] >> 29 & 1, "long mode"
    assert 0 < int(values["free_memory"]) <= int(values["total_memory"])
    assert values["xen_version"] == "4.17-pyxen"
    assert values["xen_caps"].split() == ["xen-3.0-x86_64"]
    assert values["platform_params"] == "virt_start=0xffff800000000000"
    assert values["pyxen_version"] == pyxen.__version__
    assert values["engine_emulator"].startswith("usable: unicorn 2.1.4")


def test_a_part_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "xen_version") == "4.17-pyxen\n"
    assert shown(capsys, "xen_m") == "4\n17\n"  # xl prints all that begin so
    assert shown(capsys, "nothing") == ""


def test_the_topology(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "-n", "xen_version")  # which xl takes no notice of then
    assert re.search(
        r"^free_cpus              : 0\n"
        r"cpu_topology           :\n"
        r"cpu:    core    socket     node\n"
        r"( *\d+:    [ \d]{4}     [ \d]{4}     [ \d]{4}\n)+"
        r"device topology        :\n"
        r"device           node\n"
        r"(No device topology data available\n|([\da-f]{4,}:[\da-f.:]{7}      \d+\n)+)"
        r"numa_info              :\n"
        r"node:    memsize    memfree    distances\n"
        r"( *\d+:    [ \d]{6}     [ \d]{6}      [\d,]+\n)+"
        r"xen_major              : 4\n",
        text,
        re.MULTILINE,
    ), text


def test_why_an_engine_is_not_usable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pyxen import engine

    reason = "unicorn 2.1.3 found, 2.1.4 expected"

    def refuse(*arguments: object) -> None:
        raise PyxenError(reason)

    monkeypatch.setattr(engine, "probe", lambda: [engine.EngineInfo("emulator", False, reason)])
    monkeypatch.setattr(engine, "create", refuse)
    assert shown(capsys, "engine_emulator") == f"not usable: {reason}\n"
    assert shown(capsys, "hw_caps") == ":".join(["00000000"] * 8) + "\n"


@pytest.mark.parametrize(
    ("present", "software", "text"),
    (
        (False, False, "absent"),
        (True, True, "kvm_pvm"),
        (True, False, "no engine for it yet"),
    ),
)
def test_the_kinds_of_kvm(tmp_path: Path, present: bool, software: bool, text: str) -> None:
    device, module = tmp_path / "kvm", tmp_path / "kvm_pvm"
    if present:
        device.touch()
    if software:
        module.mkdir()
    assert text in _kvm(device, module)
