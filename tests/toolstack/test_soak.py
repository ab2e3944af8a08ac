# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains are made, used and ended in random order, and killed at random moments; a naive model
says which there are. Afterwards nothing is left.

How long is said by the environment variable PYXEN_SOAK_SECONDS; PYXEN_SOAK_SEED repeats a run, as
far as processes can repeat themselves.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from machine import PATIENCE, Machine, children_of, command_of
from pyxen import Domain, PyxenError
from pyxen.backends.block.storage_daemon import DAEMON
from pyxen.testing import kernels
from pyxen.toolstack.control.client import ControlClient
from pyxen.toolstack.control.messages import DumpCore, GetStatistics, Rename

pytestmark = pytest.mark.slow

SECONDS = int(os.environ.get("PYXEN_SOAK_SECONDS", "25"))
SEED = int(os.environ.get("PYXEN_SOAK_SEED", str(random.randrange(1 << 32))))
SOURCE = Path(__file__).parents[2] / "guests" / "lifecycle" / "lifecycle.c"
MOST_DOMAINS = 6
NO_REBOOT_SECONDS = 15.0
"""A domain that wants it again sooner may be left destroyed."""
BRIDGE = "soak"


@dataclass
class Guest:
    """What the model knows of a domain."""

    domain: Domain
    pid: int
    paused: bool = False
    has_store: bool = True
    """Its store was not killed since it began."""
    has_broker: bool = True
    """Its broker was not killed as it began."""
    disks: dict[str, str] = field(default_factory=dict)
    began: float = 0.0
    """When it was last rebooted."""
    lives: int = 1

    @property
    def is_whole(self) -> bool:
        """Whether its devices can be changed."""
        return self.has_store and self.has_broker


class Soak:
    """The model, and what can be done. An operation without an object to do it to does nothing."""

    def __init__(self, machine: Machine, kernel: Path, cards: list[str]) -> None:
        self.machine = machine
        self.kernel = kernel
        self.cards = cards
        self.random = random.Random(SEED)
        self.guests: dict[str, Guest] = {}
        self.names = 0
        self.done: dict[str, int] = {}
        self.images = machine.folder / "images"
        self.images.mkdir()
        self.operations: tuple[tuple[int, Callable[[], None]], ...] = (
            (10, self.create),
            (2, self.create_two),
            (3, self.create_and_kill),
            (1, self.create_what_cannot_be),
            (10, self.type),
            (4, self.pause_or_unpause),
            (5, self.attach_disk),
            (4, self.detach_disk),
            (4, self.attach_card),
            (3, self.detach_card),
            (2, self.rename),
            (2, self.dump_core),
            (3, self.resize),
            (3, self.reboot),
            (3, self.list),
            (3, self.power_off),
            (6, self.destroy),
            (3, self.kill),
            (1, self.kill_store),
        )

    def step(self) -> None:
        weights, operations = zip(*self.operations, strict=True)
        (operation,) = self.random.choices(operations, weights)
        self.done[operation.__name__] = self.done.get(operation.__name__, 0) + 1
        operation()
        living = {entry.record.name for entry in self.machine.registry.entries() if entry.alive}
        assert living == set(self.guests)

    def any_guest(self, condition: Callable[[Guest], bool] = lambda guest: True) -> str:
        """The name of one of them, empty for none."""
        names = [name for name, guest in self.guests.items() if condition(guest)]
        return self.random.choice(names) if names else ""

    def new_name(self) -> str:
        self.names += 1
        return f"guest{self.names}"

    def settings(self, name: str) -> dict[str, Any]:
        """Of a new domain. Some have devices."""
        chosen: dict[str, Any] = {
            "name": name,
            "kernel": str(self.kernel),
            "memory": 8,
            "maxmem": 16,
            "maxvcpus": 3,
            "extra": "echo",
        }
        if self.random.random() < 0.3:
            chosen["disk"] = [f"{self.new_image('raw')},raw,xvda,rw"]
        if self.random.random() < 0.3:
            chosen["vif"] = [self.random.choice(self.cards)]
        return chosen

    def new_image(self, kind: str) -> Path:
        self.names += 1
        path = self.images / f"disk{self.names}"
        if kind == "raw":
            path.write_bytes(bytes(1 << 20))
        else:
            command = ["qemu-img", "create", "-q", "-f", kind, str(path), "1M"]
            subprocess.run(command, check=True, timeout=PATIENCE)
        return path

    def adopt(self, name: str) -> None:
        """A domain without disks that was made by a command."""
        self.guests[name] = Guest(self.connect(name), self.machine.registry.find(name).record.pid)

    def connect(self, name: str, lives: int = 1) -> Domain:
        domain = Domain.connect(name)
        for _ in range(lives):
            domain.console.expect("begun: echo", PATIENCE)
        return domain

    def forget(self, name: str) -> None:
        self.guests.pop(name).domain.close()

    def has_gone(self, pid: int) -> bool:
        return all(entry.record.pid != pid for entry in self.machine.registry.entries())

    # Making them

    def create(self) -> None:
        if len(self.guests) >= MOST_DOMAINS:
            return
        chosen = self.settings(self.new_name())
        domain = Domain(paused=False, **chosen)
        domain.start()
        disks = {"xvda": chosen["disk"][0]} if "disk" in chosen else {}
        self.guests[domain.name] = Guest(
            domain, self.machine.registry.find(domain.name).record.pid, disks=disks
        )
        domain.console.expect("begun: echo", PATIENCE)

    def command(self, settings: dict[str, Any]) -> list[str]:
        words = [f"{name}={value!r}" for name, value in settings.items()]
        return [sys.executable, "-m", "pyxen", "create", "-q", "/dev/null", *words]

    def create_two(self) -> None:
        """At the same moment; half of the time of one name, which only one of them gets."""
        first = self.new_name()
        names = [first, first if self.random.random() < 0.5 else self.new_name()]
        started = [
            subprocess.Popen(
                self.command({**self.settings(name), "disk": []}),
                env=self.machine.environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for name in names
        ]
        ends = [(each.communicate(timeout=PATIENCE)[1], each.returncode) for each in started]
        failures = [said for said, status in ends if status]
        assert len(failures) == 2 - len(set(names)), ends
        assert all(f"there is a domain {first} already" in said for said in failures)
        for name in set(names):
            self.adopt(name)

    def create_and_kill(self) -> None:
        """One of the processes that begin is killed, perhaps the command itself."""
        name = self.new_name()
        before = set(self.machine.processes())
        with subprocess.Popen(
            self.command({**self.settings(name), "disk": []}),
            env=self.machine.environment,
            stderr=subprocess.DEVNULL,
        ) as command:
            time.sleep(self.random.uniform(0.0, 0.8))
            new = [pid for pid in self.machine.processes() if pid not in before]
            victim = self.random.choice(new) if new else None
            was_store = victim is not None and "xenstored" in command_of(victim)
            if victim is not None:
                self.kill_process(victim)
            command.wait(PATIENCE)
        # What of it goes on does so to its end, or to the domain's beginning.
        self.machine.until(lambda: not self.beginning(before))
        if any(e.alive and e.record.name == name for e in self.machine.registry.entries()):
            self.adopt(name)
            guest = self.guests[name]
            guest.has_store = not was_store
            guest.has_broker = any(command_of(child) != [""] for child in children_of(guest.pid))

    def beginning(self, before: set[int]) -> list[int]:
        """New processes that are not yet what they are to be."""
        known = {entry.record.pid for entry in self.machine.registry.entries()}
        known |= {child for pid in known for child in children_of(pid)}  # their brokers
        found = []
        for pid in set(self.machine.processes()) - before - known:
            words = command_of(pid)
            if "passt" not in words[:1] and "xenstored" not in words and words != [""]:
                found.append(pid)
        for entry in self.machine.registry.entries():
            if entry.record.pid not in before and entry.alive:
                try:
                    with ControlClient(entry.folder, 1.0) as client:
                        client.ask(GetStatistics())
                except PyxenError:
                    found.append(entry.record.pid)
        return found

    def create_what_cannot_be(self) -> None:
        name = self.any_guest() or self.new_name()
        setting = {"kernel": "/none"} if name not in self.guests else {}
        with pytest.raises(PyxenError, match=r"/none|there is a domain"):
            Domain(**{**self.settings(name), **setting}).start()

    # Using them

    def type(self) -> None:
        name = self.any_guest(lambda guest: not guest.paused)
        if name:
            word = str(self.random.randrange(1 << 32))
            self.guests[name].domain.console.send(f"{word}\n")
            self.guests[name].domain.console.expect(f"heard: {word}", PATIENCE)

    def pause_or_unpause(self) -> None:
        name = self.any_guest()
        if name:
            guest = self.guests[name]
            (guest.domain.unpause if guest.paused else guest.domain.pause)()
            guest.paused = not guest.paused
            assert guest.domain.info().paused == guest.paused

    def attach_disk(self) -> None:
        name = self.any_guest(lambda guest: guest.is_whole and len(guest.disks) < 4)
        if name:
            guest = self.guests[name]
            vdev = next(v for v in ("xvda", "xvdb", "xvdc", "xvdd") if v not in guest.disks)
            formats = ["raw"]
            if shutil.which("qemu-img") and shutil.which(DAEMON):
                formats.append("qcow2")
            kind = self.random.choice(formats)
            spec = f"{self.new_image(kind)},{kind},{vdev},rw"
            guest.domain.attach_disk(spec)
            guest.disks[vdev] = spec

    def detach_disk(self) -> None:
        name = self.any_guest(lambda guest: guest.is_whole and bool(guest.disks))
        if name:
            guest = self.guests[name]
            vdev = self.random.choice(list(guest.disks))
            guest.domain.detach_disk(vdev, force=self.random.random() < 0.5)
            del guest.disks[vdev]
            assert len(guest.domain.devices("vbd")) == len(guest.disks)

    def attach_card(self) -> None:
        name = self.any_guest(lambda guest: guest.is_whole)
        if name and len(self.guests[name].domain.devices("vif")) < 3:
            self.guests[name].domain.attach_nic(self.random.choice(self.cards))

    def detach_card(self) -> None:
        name = self.any_guest(lambda guest: guest.is_whole)
        cards = self.guests[name].domain.devices("vif") if name else ()
        if cards:
            domain = self.guests[name].domain
            domain.detach_nic(self.random.choice(cards).devid)
            assert len(domain.devices("vif")) == len(cards) - 1

    def rename(self) -> None:
        name = self.any_guest(lambda guest: guest.has_broker)
        if name:
            new = self.new_name()
            with ControlClient(self.machine.registry.find(name).folder, PATIENCE) as client:
                client.ask(Rename(new))
            self.guests[new] = self.guests.pop(name)

    def dump_core(self) -> None:
        name = self.any_guest(lambda guest: guest.has_broker)
        if name:
            path = self.machine.folder / "core"
            with ControlClient(self.machine.registry.find(name).folder, PATIENCE) as client:
                client.ask(DumpCore(str(path)))
            assert path.read_bytes()[:4] == b"\x7fELF"
            path.unlink()

    def resize(self) -> None:
        name = self.any_guest(lambda guest: guest.has_store)
        if name:
            self.guests[name].domain.set_memory(self.random.randint(8, 16))
            self.guests[name].domain.set_vcpus(self.random.randint(1, 3))

    def reboot(self) -> None:
        now = time.monotonic()
        name = self.any_guest(
            lambda guest: (
                not guest.paused and guest.has_broker and now - guest.began > NO_REBOOT_SECONDS
            )
        )
        if name:
            guest = self.guests[name]
            before = self.machine.registry.find(name).record
            guest.domain.console.send("reboot\n")
            guest.domain.console.expect("begun: echo", PATIENCE)
            record = self.machine.registry.find(name).record
            assert (record.pid, record.domid > before.domid) == (before.pid, True)
            guest.began, guest.has_store, guest.lives = time.monotonic(), True, guest.lives + 1
            if self.random.random() < 0.5:  # else it notices itself that the number is another
                guest.domain.close()
                guest.domain = self.connect(name, guest.lives)

    def list(self) -> None:
        listed = {state.split()[0]: state.split()[1] for state in self.machine.names().values()}
        for name, guest in self.guests.items():
            assert listed.pop(name)[2] == ("p" if guest.paused else "-")
        assert set(listed.values()) <= {"---sc-"}  # those that were killed

    # Ending them

    def power_off(self) -> None:
        name = self.any_guest(lambda guest: not guest.paused and guest.has_broker)
        if name:
            self.guests[name].domain.console.send("poweroff\n")
            self.machine.until(lambda: self.has_gone(self.guests[name].pid))
            self.forget(name)

    def destroy(self) -> None:
        name = self.any_guest()
        if name and self.random.random() < 0.5:
            self.machine.do("destroy", name)
            self.forget(name)
        elif name:
            self.guests[name].domain.destroy()
            assert self.has_gone(self.guests[name].pid)
            self.forget(name)

    def kill(self) -> None:
        name = self.any_guest()
        if name:
            pid = self.guests[name].pid
            self.kill_process(pid)
            self.machine.until(
                lambda: (
                    not any(
                        e.alive and e.record.pid == pid for e in self.machine.registry.entries()
                    )
                )
            )
            self.forget(name)

    def kill_store(self) -> None:
        for pid in self.machine.processes():
            if "xenstored" in command_of(pid):
                self.kill_process(pid)

    def kill_process(self, pid: int) -> None:
        if "xenstored" in command_of(pid):
            for guest in self.guests.values():
                guest.has_store = False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.machine.until(lambda: command_of(pid) == [""])


@pytest.fixture
def cards(request: pytest.FixtureRequest) -> list[str]:
    """Specifications of cards that this machine can make."""
    found = ["none", "switch=soak"]
    try:
        ip = request.getfixturevalue("own_network")
    except pytest.skip.Exception:
        return found
    if Path("/dev/net/tun").exists():
        ip.link("add", ifname=BRIDGE, kind="bridge")
        found.append(f"bridge={BRIDGE}")
    return found


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    with Machine() as machine:
        for name in ("PYXEN_RUN", "XDG_STATE_HOME"):
            monkeypatch.setenv(name, machine.environment[name])
        yield machine


def test_soak(machine: Machine, cards: list[str]) -> None:
    print(f"PYXEN_SOAK_SEED={SEED}")
    try:
        kernel = kernels.build_kernel(SOURCE)
    except kernels.BuildToolsMissing as error:
        pytest.skip(str(error))
    soak = Soak(machine, kernel, cards)
    temporary = set(Path("/tmp").glob("pyxen-*"))
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        soak.step()
    print(soak.done)

    for name in list(soak.guests):
        soak.guests[name].domain.destroy()
        soak.forget(name)
    # What killed processes have left goes with the next one that is made and ends.
    last = Domain(**soak.settings("last"))
    last.start()
    last.destroy()
    last.close()
    assert machine.registry.entries() == []
    machine.until(lambda: not machine.leaks())
    assert machine.store_nodes() == []
    machine.until(lambda: not machine.processes())
    assert left_in(machine.run) == []
    assert {path.suffix for path in (machine.folder / "state" / "pyxen").iterdir()} == {".log"}
    for path in (machine.folder / "state" / "pyxen").iterdir():
        assert "Traceback" not in path.read_text(), path
    assert set(Path("/tmp").glob("pyxen-disk-*")) <= temporary
    devices = {path.name for path in Path("/proc/thread-self/net/dev_snmp6").iterdir()}
    assert not [name for name in devices if name.startswith(("vif", "tap"))]


def left_in(run: Path) -> list[str]:
    """Files of a run folder but those that a host has for good."""
    kept = {"boot-id", "dmesg", "domains", "domains.lock", "next-domid", "scheduler"}
    kept |= {"switches", "switches/soak", "switches/soak/lock"}
    found = {str(path.relative_to(run)) for path in run.rglob("*")}
    return sorted(found - kept)
