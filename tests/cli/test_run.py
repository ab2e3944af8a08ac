# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen run`` over a life cycle that plays what a test wants."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pyxen.abi.sched import SHUTDOWN_NAMES
from pyxen.cli.main import main
from pyxen.errors import PyxenError
from pyxen.hypervisor.instruments import Statistics
from pyxen.toolstack import lifecycle as lifecycle_module
from pyxen.toolstack.config import DomainConfig
from pyxen.toolstack.console_log import ConsoleLogConfig
from pyxen.toolstack.devices.channel import ChannelConfig
from pyxen.toolstack.devices.disk import parse_disk
from pyxen.toolstack.devices.nic import parse_nic
from pyxen.toolstack.lifecycle import Outcome

STATISTICS = Statistics(
    hypercalls={"mmu_update": (4000, 20_000_000), "sched_op": (10, 90_000_000), "never": (0, 0)},
    traps={"general_protection": (100, 1_000_000)},
    operations={"vcpu_op.is_up": 8192},
    guest_ns=1_500_000_000,
    idle_ns=200_000_000,
    wall_ns=2_000_000_000,
    devices={"vbd-51712": {"reads": 7}},
)


def outcome(reason: str = "poweroff", report: str | None = None) -> Outcome:
    return Outcome(reason, report, STATISTICS)


@dataclass
class Lifecycle:
    """What replaces the real one: notes the options, then does what ``guest`` does."""

    guest: Callable[[Any], Outcome] = lambda console: outcome()
    options: list[DomainConfig] = field(default_factory=list)
    timeout: float | None = None

    def run(self, config: DomainConfig, console: Any, *, timeout: float | None) -> Outcome:
        self.options.append(config)
        self.timeout = timeout
        return self.guest(console)


@pytest.fixture
def lifecycle(monkeypatch: pytest.MonkeyPatch) -> Lifecycle:
    fake = Lifecycle()
    monkeypatch.setattr(lifecycle_module, "run", fake.run)
    return fake


def run(*arguments: str) -> int:
    return main(("run", "--kernel", "vmlinuz", *arguments))


def test_defaults(lifecycle: Lifecycle) -> None:
    assert run() == 0
    assert lifecycle.options == [
        DomainConfig(
            kernel=Path("vmlinuz"),
            ramdisk=None,
            command_line="console=hvc0",
            memory_mib=256,
            vcpus=1,
            engine="auto",
            on_reboot="restart",
            system_map=None,
            cap=0,
            name="vmlinuz",
        )
    ]


def test_every_option_arrives(lifecycle: Lifecycle) -> None:
    assert (
        run(
            *("--ramdisk", "initrd", "--cmdline", "quiet", "--memory", "64", "--vcpus", "4"),
            *("--engine", "emulator", "--timeout", "2.5", "--no-reboot"),
            *("--system-map", "System.map", "--cap", "50", "--name", "web"),
            *("--disk", "/a,raw,xvda", "--disk", "/b,raw,xvdb,ro", "--net", "none"),
            *("--channel", "name=a,connection=pty", "--console-log", "web.log,timestamp"),
        )
        == 0
    )
    assert lifecycle.options == [
        DomainConfig(
            kernel=Path("vmlinuz"),
            ramdisk=Path("initrd"),
            command_line="quiet",
            memory_mib=64,
            vcpus=4,
            engine="emulator",
            on_reboot="destroy",
            system_map=Path("System.map"),
            cap=50,
            name="web",
            disks=(parse_disk("/a,raw,xvda"), parse_disk("/b,raw,xvdb,ro")),
            nics=(parse_nic("none"),),
            channels=(ChannelConfig("a", "pty"),),
            console_log=ConsoleLogConfig(Path("web.log"), timestamps=True),
        )
    ]
    assert lifecycle.timeout == 2.5


def test_an_image_gives_kernel_and_ramdisk(
    lifecycle: Lifecycle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    folder = tmp_path / "pyxen" / "images" / "mine"
    folder.mkdir(parents=True)
    (folder / "kernel").write_bytes(b"k")
    (folder / "ramdisk").write_bytes(b"r")
    (folder / "meta.json").write_text(
        json.dumps({"description": "d", "packages": {}, "recipe": "r", "pulled": "p"})
    )
    assert main(("run", "--image", "mine")) == 0
    options = lifecycle.options[0]
    assert (options.kernel, options.ramdisk) == (folder / "kernel", folder / "ramdisk")
    assert options.command_line == "console=hvc0"


@pytest.fixture
def image_with_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an image `mine`."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "pyxen" / "images" / "mine"
    folder.mkdir(parents=True)
    for name in ("kernel", "ramdisk", "disk"):
        (folder / name).write_text(name)
    meta = {"description": "d", "packages": {}, "recipe": "r", "pulled": "p", "disk": True}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def test_an_image_with_a_disk_and_a_seed(image_with_disk: Path, lifecycle: Lifecycle) -> None:
    contents = []

    def guest(console: Any) -> Outcome:
        contents.extend(Path(disk.target).read_bytes() for disk in lifecycle.options[0].disks)
        return outcome()

    lifecycle.guest = guest
    (image_with_disk / "data").write_text("data")
    disk = ("--disk", f"{image_with_disk}/data,raw,xvdb")
    seed = ("--hostname", "box", "--password", "x")
    assert main(("run", "--image", "mine", *disk, *seed)) == 0

    config = lifecycle.options[0]
    assert [disk.vdev for disk in config.disks] == ["xvdb", "xvda", "xvdc"]
    assert contents[:2] == [b"data", b"disk"]
    assert b"chpasswd" in contents[2]
    assert config.command_line == "console=hvc0 root=/dev/xvda ro"


def test_parts_of_an_image_can_be_replaced(image_with_disk: Path, lifecycle: Lifecycle) -> None:
    arguments = ("--ramdisk", "other", "--cmdline", "quiet", "--disk", "/mine,raw,xvda")
    assert main(("run", "--image", "mine", *arguments)) == 0

    config = lifecycle.options[0]
    assert (config.kernel, config.ramdisk) == (image_with_disk / "kernel", Path("other"))
    assert config.command_line == "quiet"
    assert config.disks == (parse_disk("/mine,raw,xvda"),)


def test_a_missing_image_is_one_line(
    lifecycle: Lifecycle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert main(("run", "--image", "none")) == 1
    error = capsys.readouterr().err
    assert error.startswith("pyxen: no image none")
    assert error.count("\n") == 1
    assert not lifecycle.options


@pytest.mark.parametrize(
    ("option", "spec", "message"),
    (
        ("--disk", "/a,raw,vda", "disk '/a,raw,vda': vdev: 'vda' is no name of a disk"),
        ("--net", "mac=1", "net 'mac=1': mac: '1' is not like 00:16:3e:12:34:56"),
        ("--channel", "name=a", "channel 'name=a': connection: '' is none of pty, socket"),
        ("--console-log", "a,b", "console log 'a,b': 'b' is none of timestamp, limit=SIZE"),
    ),
)
def test_a_bad_device_is_one_line(
    lifecycle: Lifecycle,
    capsys: pytest.CaptureFixture[str],
    option: str,
    spec: str,
    message: str,
) -> None:
    assert run(option, spec) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"pyxen: {message}")
    assert error.count("\n") == 1
    assert not lifecycle.options


@pytest.mark.parametrize(
    "arguments",
    (
        (),
        ("--image", "a", "--kernel", "b"),
        ("--kernel", "a", "--memory", "0"),
        ("--kernel", "a", "--memory", "many"),
        ("--kernel", "a", "--vcpus", "-1"),
        ("--kernel", "a", "--timeout", "0"),
        ("--kernel", "a", "--timeout", "nan"),
        ("--kernel", "a", "--timeout", "inf"),
        ("--kernel", "a", "--engine", "bochs"),
        ("--kernel", "a", "--log-level", "chatty"),
    ),
)
def test_wrong_usage_has_status_2(lifecycle: Lifecycle, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as left:
        main(("run", *arguments))
    assert left.value.code == 2
    assert not lifecycle.options


@pytest.mark.parametrize(
    ("reason", "status"),
    (("poweroff", 0), ("detached", 0), ("crash", 3), ("reboot", 4), ("timeout", 124)),
)
def test_the_status_tells_how_the_guest_ended(
    lifecycle: Lifecycle, reason: str, status: int
) -> None:
    lifecycle.guest = lambda console: outcome(reason)
    assert run() == status


@pytest.mark.parametrize(
    ("reason", "name"), (("suspend", "suspended"), ("soft_reset", "soft reset"))
)
def test_what_cannot_be_done_for_the_guest_is_one_line(
    lifecycle: Lifecycle, capsys: pytest.CaptureFixture[str], reason: str, name: str
) -> None:
    lifecycle.guest = lambda console: outcome(reason)
    assert run() == 1
    error = capsys.readouterr().err
    assert error.startswith("pyxen: the guest asks ")
    assert name in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("reason", SHUTDOWN_NAMES.values())
def test_every_way_in_which_a_guest_ends_has_a_status(lifecycle: Lifecycle, reason: str) -> None:
    lifecycle.guest = lambda console: outcome(reason)
    assert run("--log-level", "debug") in (0, 1, 3, 4)


def test_the_crash_report_goes_to_standard_error(
    lifecycle: Lifecycle, capfd: pytest.CaptureFixture[str]
) -> None:
    lifecycle.guest = lambda console: outcome("crash", report="domain crashed: rip 0x1000")
    assert run() == 3
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "domain crashed: rip 0x1000\n"


def test_console_output_reaches_standard_output(
    lifecycle: Lifecycle, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    def guest(console: Any) -> Outcome:
        console.output(b"Linux\r\n\xff")
        return outcome()

    lifecycle.guest = guest
    assert run() == 0
    assert capfdbinary.readouterr().out == b"Linux\r\n\xff"


def test_an_error_of_the_input_is_one_line(
    lifecycle: Lifecycle, capsys: pytest.CaptureFixture[str]
) -> None:
    def guest(console: Any) -> Outcome:
        raise PyxenError("vmlinuz: not a kernel")

    lifecycle.guest = guest
    assert run() == 1
    assert capsys.readouterr().err == "pyxen: vmlinuz: not a kernel\n"


def test_a_bug_is_one_line_or_a_traceback_on_demand(
    lifecycle: Lifecycle, capsys: pytest.CaptureFixture[str]
) -> None:
    def guest(console: Any) -> Outcome:
        raise ZeroDivisionError("of\nours")

    lifecycle.guest = guest
    assert run() == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "bug in pyxen (ZeroDivisionError: of ours)" in error
    with pytest.raises(ZeroDivisionError):
        run("--log-level", "debug")


def test_an_interrupt_has_status_130(lifecycle: Lifecycle) -> None:
    def guest(console: Any) -> Outcome:
        raise KeyboardInterrupt

    lifecycle.guest = guest
    assert run() == 130


def test_the_table_of_figures(lifecycle: Lifecycle, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--stats") == 0
    lines = [" ".join(line.split()) for line in capfd.readouterr().err.splitlines()]
    assert lines == [
        "hypercall count total ms mean us",
        "sched_op 10 90.0 9000.0",
        "mmu_update 4000 20.0 5.0",
        "never 0 0.0 0.0",
        "",
        "trap count total ms mean us",
        "general_protection 100 1.0 10.0",
        "",
        "time ms %",
        "in guest code 1500.0 75.0",
        "in the hypervisor 300.0 15.0",
        "idle 200.0 10.0",
        "in all 2000.0 100.0",
        "",
        "vbd-51712 count",
        "reads 7",
    ]


def test_figures_as_json(lifecycle: Lifecycle, tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    assert run("--stats-json", str(path)) == 0
    assert json.loads(path.read_text())["hypercalls"]["sched_op"] == [10, 90_000_000]


def test_figures_that_cannot_be_written(
    lifecycle: Lifecycle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "missing" / "stats.json"
    assert run("--stats-json", str(path)) == 1
    assert capsys.readouterr().err == f"pyxen: {path}: No such file or directory\n"


def test_a_reader_who_goes_away(lifecycle: Lifecycle, tmp_path: Path) -> None:
    """As in ``pyxen run … | head -1``: quiet, and the status of a filter killed by SIGPIPE."""

    def guest(console: Any) -> Outcome:
        ended = threading.Event()

        def serve() -> None:
            asyncio.run(console.serve(lambda data: None, lambda: 0))
            ended.set()

        thread = threading.Thread(target=serve)
        thread.start()
        while not ended.is_set():
            console.output(b"y\r\n" * 1000)
        thread.join()
        return outcome("detached")

    lifecycle.guest = guest
    reader, writer = os.pipe()
    saved = os.dup(1)
    os.dup2(writer, 1)
    os.close(writer)
    try:

        def read_and_go() -> None:
            os.read(reader, 3)
            os.close(reader)

        head = threading.Thread(target=read_and_go)
        head.start()
        assert run() == 141
        head.join()
    finally:
        os.dup2(saved, 1)
        os.close(saved)
