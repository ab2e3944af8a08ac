# SPDX-License-Identifier: GPL-2.0-or-later
"""The threads of a run around a domain that plays what a test wants."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyxen.abi.io_console import XENCONS_INTERFACE
from pyxen.backends.console.buffer import Scrollback
from pyxen.backends.console.ring import ConsoleRing
from pyxen.engine.protocol import EngineError
from pyxen.errors import PyxenError
from pyxen.hypervisor.crash import DomainCrash
from pyxen.toolstack import lifecycle
from pyxen.toolstack.config import DomainConfig
from pyxen.toolstack.console_log import ConsoleLogConfig
from pyxen.toolstack.host import Host

PATIENCE = 20.0


class PlayedDomain:
    """Runs ``guest``, then whatever is posted until it is stopped."""

    domid = 1
    vcpus = ()
    counters = SimpleNamespace(last_hypercalls=list)

    def __init__(self, guest: Callable[[PlayedDomain], None] = lambda domain: None) -> None:
        self.guest = guest
        self.stopping = ""
        self.posted: queue.Queue[Callable[[], None]] = queue.Queue()

    def run(self) -> str:
        self.guest(self)
        while not self.stopping:
            self.posted.get(timeout=PATIENCE)()
        return self.stopping

    def post(self, work: Callable[[], None]) -> None:
        self.posted.put(work)

    def stop(self, reason: str) -> None:
        self.stopping = self.stopping or reason

    def statistics(self) -> None:
        return None


class User:
    """A console whose output blocks until somebody leaves."""

    def __init__(self) -> None:
        self.serving = threading.Event()
        self.left = threading.Event()
        self.failure: Exception | None = None

    def output(self, data: bytes) -> None:
        assert self.left.wait(PATIENCE)

    async def serve(
        self, write_input: Callable[[bytes], None], pending_input: Callable[[], int]
    ) -> None:
        self.serving.set()
        while not self.left.is_set():
            await asyncio.sleep(0.001)
            if self.failure is not None:
                raise self.failure

    def leave(self) -> None:
        self.left.set()


@pytest.fixture
def user() -> User:
    return User()


Run = Callable[..., lifecycle.Outcome]


@pytest.fixture
def run(user: User) -> Iterator[Run]:
    """Runs a guest on a domain; ``printed`` is what waits in its output ring."""

    def run(
        guest: Callable[[PlayedDomain], None] = lambda domain: None,
        *,
        timeout: float | None = None,
        expired: bool = False,
        printed: bytes = b"",
    ) -> lifecycle.Outcome:
        page = bytearray(4096)
        offsets = XENCONS_INTERFACE.offsets
        page[offsets["out"] : offsets["out"] + len(printed)] = printed
        page[offsets["out_prod"]] = len(printed)
        scrollback = Scrollback()

        def output(data: bytes) -> None:
            scrollback.append(data)
            user.output(data)

        ring = ConsoleRing(memoryview(page), lambda: None, output)
        no_names: Any = SimpleNamespace(lookup=lambda address: None)
        domain: Any = PlayedDomain(guest)
        with Host(timeout) as host:
            if expired:
                host.deadline._ring()
            return lifecycle._run_domain(domain, no_names, ring, user, scrollback, host)

    return run


def fail_with(error: BaseException) -> Callable[[PlayedDomain], None]:
    def guest(domain: PlayedDomain) -> None:
        raise error

    return guest


def test_the_time_limit_frees_a_run_that_waits_for_its_reader(run: Run, user: User) -> None:
    assert run(lambda domain: user.output(b"x"), timeout=0.05).exit_reason == "timeout"


def test_the_time_limit_frees_the_last_output(run: Run, user: User) -> None:
    outcome = run(lambda domain: domain.stop("poweroff"), timeout=0.05, printed=b"bye")
    assert outcome.exit_reason == "poweroff"
    assert user.left.is_set()


def test_a_time_limit_that_has_passed_is_the_reason(run: Run, user: User) -> None:
    # It rang while the guest rebooted, and no domain ran.
    assert run(expired=True).exit_reason == "timeout"


def test_the_guest_begins_when_the_console_is_served(run: Run, user: User) -> None:
    def guest(domain: PlayedDomain) -> None:
        assert user.serving.is_set()
        domain.stop("poweroff")

    assert run(guest).exit_reason == "poweroff"


def test_a_user_who_leaves_ends_the_run(run: Run, user: User) -> None:
    user.left.set()
    assert run().exit_reason == "detached"


def test_a_failure_of_the_console_comes_out(run: Run, user: User) -> None:
    user.failure = RuntimeError("console")
    with pytest.raises(RuntimeError, match="console"):
        run()


@pytest.mark.parametrize("error", (DomainCrash("triple fault"), EngineError("triple fault")))
def test_a_crash_is_reported(run: Run, user: User, error: Exception) -> None:
    user.left.set()
    outcome = run(fail_with(error), printed=b"one\ntwo\n")
    assert outcome.exit_reason == "crash"
    assert outcome.report is not None
    assert outcome.report.startswith("domain 1 crashed: triple fault\n")
    assert "last console output:\n  one\n  two\n" in outcome.report


@pytest.mark.parametrize("error", (IndexError("17"), OverflowError("a\nb"), ValueError("bad")))
def test_a_failure_of_ours_crashes_the_domain(
    run: Run, user: User, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    user.left.set()
    with caplog.at_level(logging.DEBUG, "pyxen"):
        outcome = run(fail_with(error))
    assert outcome.exit_reason == "crash"
    assert outcome.report is not None
    shown = " ".join(str(error).split())
    assert outcome.report.startswith(
        f"domain 1 crashed: pyxen failed while serving the guest: {type(error).__name__}: {shown}\n"
    )
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert record.exc_info is not None


@pytest.mark.parametrize("error", (PyxenError("ours"), KeyboardInterrupt(), SystemExit(143)))
def test_what_is_no_crash_comes_out(run: Run, user: User, error: BaseException) -> None:
    user.left.set()
    with pytest.raises(type(error)):
        run(fail_with(error))


def test_a_bad_system_map_is_told_before_the_run(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "System.map"
    segment = SimpleNamespace(paddr=0, memory_size=4096)
    notes = SimpleNamespace(virt_base=0, paddr_offset=0)
    kernel = SimpleNamespace(elf=SimpleNamespace(loadable=[segment]), notes=notes)
    monkeypatch.setattr(lifecycle, "load_kernel", lambda path: kernel)
    with pytest.raises(PyxenError, match=r"System\.map: cannot read the symbols"):
        lifecycle.run(DomainConfig(Path("vmlinuz"), system_map=path), user)


def test_names_come_from_the_system_map(tmp_path: Path) -> None:
    path = tmp_path / "System.map"
    path.write_text("0000000000000100 T start_kernel\n")
    segment = SimpleNamespace(paddr=0, memory_size=4096)
    notes = SimpleNamespace(virt_base=0, paddr_offset=0)
    elf = SimpleNamespace(loadable=[segment], sections=[], data=memoryview(b""))
    kernel: Any = SimpleNamespace(elf=elf, notes=notes)
    assert lifecycle.Symbols(kernel, path).lookup(0x123) == ("start_kernel", 0x23)
    assert lifecycle.Symbols(kernel, None).lookup(0x123) is None


def test_output_is_recorded_before_its_reader_takes_it(tmp_path: Path, user: User) -> None:
    config = ConsoleLogConfig(tmp_path / "console.log")
    with closing(config.open()) as log_file:
        console = lifecycle.Recorded(user, log_file)
        thread = threading.Thread(target=console.output, args=[b"Linux version"])
        thread.start()
        while config.path.read_bytes() != b"Linux version":
            assert thread.is_alive()
        console.leave()
        thread.join()


def test_a_log_that_cannot_be_opened_is_told_before_the_run(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "load_kernel", lambda path: None)
    log = ConsoleLogConfig(tmp_path / "none" / "console.log")
    with pytest.raises(PyxenError, match=r"console\.log: No such file or directory"):
        lifecycle.run(DomainConfig(kernel=Path("vmlinuz"), console_log=log), user)
