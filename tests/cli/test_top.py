# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen top``: the lines that scripts know from xentop, and the full screen on a terminal."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from machine import PATIENCE, Machine
from pyxen.cli.top_columns import SCREEN, XENTOP, View, fitting, table
from pyxen.cli.top_details import screen_details
from pyxen.toolstack.control.messages import DomainInfo
from pyxen.toolstack.usage import Sample, Usage

# As xentop 4.17 prints them.
HEADER = (
    "      NAME  STATE   CPU(sec) CPU(%)     MEM(k) MEM(%)  MAXMEM(k) MAXMEM(%) VCPUS NETS "
    "NETTX(k) NETRX(k) VBDS   VBD_OO   VBD_RD   VBD_WR  VBD_RSECT  VBD_WSECT SSID"
)
ROW = re.compile(
    r"(?P<name>.{10}) (?P<state>[d-][s-][b-][c-][p-][r-]) (?P<cpu>[ \d]{10}) "
    r"(?P<percent>[ \d]{4}\.\d) (?P<memory>[ \d]{10}) [ \d]{4}\.\d [ \d]{10} [ \d]{7}\.\d "
    r"(?P<vcpus>[ \d]{5}) (?P<nets>[ \d]{4}) [ \d]{8} [ \d]{8} (?P<vbds>[ \d]{4}) [ \d]{8} "
    r"[ \d]{8} [ \d]{8} [ \d]{10} [ \d]{10} {4}0"
)
MODE = re.compile(r"\x1b\[\?[0-9]+[hl]")
STYLE = re.compile(r"\x1b\[[0-9;]*m")
HOME = "\x1b[1;1H"
PLACE = re.compile(r"\x1b\[(\d+);(\d+)H")


def configure(machine: Machine, kernel: Path) -> Path:
    path = machine.folder / "guest.cfg"
    path.write_text(f'name = "web"\nkernel = "{kernel}"\nmemory = 8\n')
    return path


@pytest.fixture(scope="module")
def machine(lifecycle_kernel: Path) -> Iterator[Machine]:
    """With a domain that computes, has a disk and a card, and gets half of a processor; one that
    sleeps; one that is paused."""
    with Machine() as machine:
        config = configure(machine, lifecycle_kernel)
        disk = machine.folder / "disk.img"
        disk.write_bytes(bytes(1 << 20))
        devices = (f"disk=['{disk},raw,xvda,rw']", "vif=['none']")
        machine.do("create", config, "extra='busy'", "vcpus=2", "cap=50", *devices)
        machine.do("create", config, "name='a.name.that.is.long'")
        machine.do("create", "-p", config, "name='paused'")
        yield machine


# Lines


def test_lines_as_xentop_prints_them(machine: Machine) -> None:
    lines = machine.do("top", "-b", "-i", "2", "-d", "0.5", "-n", "-x", "-v").splitlines()
    assert [line for line in lines if "NAME" in line] == [HEADER] * 2
    second = lines[lines.index(HEADER, 1) + 1 :]
    rows = {match["name"].strip(): match for match in map(ROW.fullmatch, second) if match}
    assert list(rows) == ["a.name.tha", "Domain-0", "paused", "web"]
    web, paused = rows["web"], rows["paused"]
    assert web["state"] in ("-----r", "------")  # that of the moment
    assert paused["state"] == "----p-"
    assert 1 < float(web["percent"]) < 90  # of its half
    assert float(paused["percent"]) == 0
    assert [int(web[name]) for name in ("memory", "vcpus", "nets", "vbds")] == [8192, 2, 1, 1]
    assert len(web[0]) == len(HEADER)
    place = second.index(web[0])
    assert re.fullmatch(r"VCPUs\(sec\):   0: [ \d]{10}s", second[place + 1])
    none = f"{0:8d}bytes {0:8d}pkts {0:8d}err {0:8d}drop"
    assert second[place + 2] == f"Net0 RX: {none}  TX: {none}"
    assert second[place + 3] == (
        f"VBD BlkBack 51712 [ca: 0]  OO: {0:8d}   RD: {0:8d}   WR: {0:8d}   "
        f"RSECT: {0:10d}   WSECT: {0:10d}"
    )


def test_full_names_and_repeated_headers(machine: Machine) -> None:
    lines = machine.do("top", "--batch", "--iterations=1", "-f", "-r").splitlines()
    headers, rows = lines[::2], lines[1::2]
    assert headers == [HEADER.rjust(len(HEADER) + len("name.long"))] * 4 != [HEADER] * 4
    assert [row.split()[0] for row in rows] == ["a.name.that.is.long", "Domain-0", "paused", "web"]


def test_who_is_killed_or_stuck(own_machine: Machine, lifecycle_kernel: Path) -> None:
    config = configure(own_machine, lifecycle_kernel)
    own_machine.do("create", config)
    own_machine.do("create", config, "name='stuck'")
    killed = own_machine.registry.find("web").record.pid
    os.kill(own_machine.registry.find("stuck").record.pid, signal.SIGSTOP)
    os.kill(killed, signal.SIGKILL)
    own_machine.until(lambda: not own_machine.registry.find("web").alive)
    done = own_machine.call("top", "-b", "-i", "2", "-d", "0.1")
    assert done.returncode == 0
    rows = [line.split()[:2] for line in done.stdout.splitlines() if line != HEADER]
    expected = [["Domain-0", "-----r"], ["stuck", "------"], ["web", "---c--"]]
    assert rows == expected * 2
    first, second = sorted(done.stderr.splitlines())  # each is told once
    assert first.endswith("its process does not answer")
    assert f"its process {killed} was killed or failed" in second


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
def test_a_signal_ends_the_lines(own_machine: Machine, number: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "pyxen", "top", "-b"],
        env=own_machine.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().rstrip() == HEADER
        process.send_signal(number)
        process.stdout.read()
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (("-d", "0"), "'0' is not a number above 0"),
        (("-d", "soon"), "'soon' is not a number above 0"),
        (("-i", "0"), "'0' is not a whole number above 0"),
    ),
)
def test_wrong_numbers(own_machine: Machine, arguments: tuple[str, ...], message: str) -> None:
    done = own_machine.call("top", *arguments)
    assert done.returncode == 2
    assert done.stderr.endswith(f"{message}\n")


def test_a_screen_needs_a_terminal(own_machine: Machine) -> None:
    expected = "top: the full screen needs a terminal; -b prints lines"
    assert own_machine.refusal("top") == expected


# What is shown

INFO = DomainInfo(
    domid=3,
    name="web",
    uuid="",
    pid=1,
    started=0.0,
    memory_kib=8192,
    max_memory_kib=8192,
    paused=False,
    shutdown_reason="",
    vcpus=(),
)


def test_names_do_nothing_to_the_terminal() -> None:
    sample = Sample(replace(INFO, name="x\x1b[2J\n"), 1, note="a\x07 b")
    usage = Usage(sample, None, 1 << 20)
    lines = [" ".join(line.cells) for line in table(View(), SCREEN, [usage], screen_details)]
    assert lines[1].split()[0] == "x?[2J?"
    assert lines[2] == "  a? b"


def test_columns_go_where_room_is_short() -> None:
    assert fitting(SCREEN, 300) == list(SCREEN)
    narrow = [column.header for column in fitting(SCREEN, 80)]
    assert narrow[:5] == ["NAME", "STATE", "CPU(sec)", "CPU(%)", "STOLEN(%)"]
    assert 5 < len(narrow) < len(SCREEN)
    assert fitting(SCREEN, 1) == [column for column in SCREEN if not column.drop]


def test_wide_numbers_stay_in_their_columns() -> None:
    usages = [Usage(Sample(replace(INFO, memory_kib=kib), 1), None, 1 << 20) for kib in (1, 10**12)]
    lines = [" ".join(line.cells) for line in table(View(), XENTOP, usages, lambda *_: iter(()))]
    assert len({len(line) for line in lines}) == 1
    assert len(lines[0]) > len(HEADER)


# The full screen


class Terminal:
    """A terminal with ``pyxen top`` on it; ``rows`` is what it shows."""

    def __init__(self, machine: Machine, *arguments: str, term: str = "xterm") -> None:
        sizes = {"COLUMNS": "80", "LINES": "24"}  # of old, as some shells export them
        self.master, slave = os.openpty()
        self.resize(40, 160)
        self.mode = termios.tcgetattr(slave)
        self.shown = ""
        self.process = subprocess.Popen(
            ["setsid", "--ctty", sys.executable, "-m", "pyxen", "top", *arguments],
            env={**machine.environment, **sizes, "TERM": term},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        self._slave = slave

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
        for fd in (self.master, self._slave):
            if fd >= 0:
                os.close(fd)

    def resize(self, height: int, width: int) -> None:
        self.height = height
        size = struct.pack("HHHH", height, width, 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def press(self, keys: bytes) -> None:
        """What is shown from now on is what came of it."""
        self.read(0.0)
        self.shown = ""
        os.write(self.master, keys)

    def read(self, seconds: float) -> None:
        while select.select([self.master], [], [], seconds)[0]:
            self.shown += os.read(self.master, 65536).decode()
            seconds = 0.0

    def until(self, condition: Callable[[list[str]], Any]) -> list[str]:
        """The rows when it is so."""
        deadline = time.monotonic() + PATIENCE
        while not condition(self.rows):
            assert time.monotonic() < deadline, self.shown
            self.read(0.05)
        return self.rows

    @property
    def rows(self) -> list[str]:
        """Those of the last whole picture, without styles."""
        for picture in reversed(self.shown.split(HOME)[1:]):
            first, *pieces = PLACE.split(STYLE.sub("", picture))
            rows = [first, *pieces[2::3]]
            if len(rows) == self.height:
                return [MODE.sub("", row).rstrip() for row in rows]
        return []

    def is_restored(self) -> bool:
        """The mode is the old one, the screen too, and the cursor is seen."""
        self.read(0.1)
        modes = MODE.findall(self.shown)
        return (
            termios.tcgetattr(self.master) == self.mode
            and "\x1b[?1049l" in modes
            and modes[-1] == "\x1b[?25h"
        )


@pytest.fixture
def terminal(machine: Machine) -> Iterator[Terminal]:
    with Terminal(machine, "-d", "0.5") as terminal:
        terminal.until(lambda rows: rows and "uit" in rows[-1])
        yield terminal


def row_of(rows: list[str], name: str) -> list[str]:
    return next((row.split() for row in rows if row.split()[:1] == [name]), [])


def test_the_screen_is_live(terminal: Terminal) -> None:
    rows = terminal.until(lambda rows: float((row_of(rows, "web") or ["0"] * 5)[4]) > 10)
    assert re.fullmatch(r"pyxen top - \d\d:\d\d:\d\d   Xen 4\.17-pyxen", rows[0])
    assert re.match("4 domains: [12] running, 1 blocked, 1 paused, 0 crashed, ", rows[1])
    assert re.match(r"Mem: \d+k total, \d+k used, \d+k free    CPUs: \d+", rows[2])
    header = rows[3].split()
    assert header == [column.header for column in SCREEN]
    web = dict(zip(header, row_of(rows, "web"), strict=True))
    assert 10 < float(web["STOLEN(%)"]) < 90  # the half that it does not get
    assert len(rows) == 40
    assert rows[-1].split() == [
        *("Delay", "Networks", "vBds", "VCPUs", "Repeat", "header", "Sort", "order", "Quit")
    ]


def test_keys(terminal: Terminal) -> None:
    terminal.press(b"vnb")
    rows = terminal.until(lambda rows: any("reqs/s" in row for row in rows))
    assert any(re.match(r"  VCPU   0: +\d+\.\d s +\d+\.\d %   stolen", row) for row in rows)
    assert any(row.startswith("  vif-0  RX: ") for row in rows)
    assert any(row.startswith("  vbd-51712  RD: ") for row in rows)
    terminal.press(b"VNB")
    terminal.until(lambda rows: rows and not any("VCPU " in row or "vif-" in row for row in rows))
    terminal.press(b"r")
    terminal.until(lambda rows: sum("CPU(sec)" in row for row in rows) == 4)
    terminal.press(b"r\x1b[B\x1b[B\x1b[B")  # three domains down
    terminal.until(
        lambda rows: rows and [bool(row_of(rows, n)) for n in ("paused", "web")] == [0, 1]
    )
    terminal.press(b"\x1b[A\x1b[A\x1b[A\x1b[A")
    terminal.until(lambda rows: row_of(rows, "Domain-0"))
    terminal.press(b"ss")  # by the processor's time: the host first
    terminal.until(lambda rows: len(rows) > 4 and rows[4].split()[0] == "Domain-0")
    terminal.press(b"d9x\x7f12")
    terminal.until(lambda rows: rows and rows[-1] == "  Delay(sec): 12")
    terminal.press(b"\r")
    terminal.until(lambda rows: rows and "elay" in rows[-1])
    terminal.press(b"d7\x1b")  # no
    terminal.until(lambda rows: rows and "elay " in rows[-1])
    terminal.press(b"q")
    assert terminal.process.wait(PATIENCE) == 0
    assert terminal.is_restored()


def test_the_size_of_the_window(terminal: Terminal) -> None:
    terminal.press(b"v")
    for height, width in ((12, 80), (3, 20), (1, 1), (50, 200)):
        terminal.resize(height, width)
        terminal.until(lambda rows, width=width: rows and max(map(len, rows)) <= width)
    assert row_of(terminal.rows, "web")


@pytest.mark.parametrize(
    ("how", "status"),
    (("iterations", 0), ("escape", 0), ("control-c", 130), (signal.SIGTERM, 143)),
)
def test_the_terminal_is_restored(machine: Machine, how: str | int, status: int) -> None:
    with Terminal(machine, *(["-i", "1"] if how == "iterations" else [])) as terminal:
        terminal.until(lambda rows: rows and "uit" in rows[-1])
        if isinstance(how, int):
            terminal.process.send_signal(how)
        elif how != "iterations":
            os.write(terminal.master, {"escape": b"\x1b", "control-c": b"\x03"}[how])
        assert terminal.process.wait(PATIENCE) == status
        assert terminal.is_restored()


def test_suspended_and_continued(terminal: Terminal) -> None:
    pid = terminal.process.pid
    os.write(terminal.master, b"\x1a")
    stat = Path(f"/proc/{pid}/stat")
    terminal.until(lambda rows: stat.read_text().rpartition(")")[2].split()[0] == "T")
    assert terminal.is_restored()
    terminal.shown = ""
    terminal.process.send_signal(signal.SIGCONT)
    terminal.until(lambda rows: row_of(rows, "web"))
    assert "\x1b[?1049h" in terminal.shown
    terminal.press(b"q")
    assert terminal.process.wait(PATIENCE) == 0


def test_a_terminal_that_goes_away(terminal: Terminal) -> None:
    os.close(terminal._slave)
    os.close(terminal.master)
    terminal._slave = terminal.master = -1
    assert terminal.process.wait(PATIENCE) == 128 + signal.SIGHUP


def test_a_terminal_that_can_show_no_screen(own_machine: Machine) -> None:
    with Terminal(own_machine, term="dumb") as terminal:
        assert terminal.process.wait(PATIENCE) == 1
        terminal.read(1.0)
    assert terminal.shown.strip() == (
        "pyxen: top: the terminal (TERM) can show no full screen; -b prints lines"
    )
