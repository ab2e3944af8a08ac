# SPDX-License-Identifier: GPL-2.0-or-later
"""The folders of domains: numbers, names, signs of life, and what is left of the dead."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyxen.errors import PyxenError
from pyxen.toolstack import folders, registry
from pyxen.toolstack.registry import LAST_DOMAIN, Membership, Record, Registry

PATIENCE = 30.0


def record(name: str) -> Callable[[int], Record]:
    return lambda domid: Record(domid, name, "uuid", os.getpid(), 1.0, "/log", 64, 1)


@pytest.fixture
def run(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "run")


def add(run: Registry, name: str = "web") -> Membership:
    return run.add(record(name), {"a": 1})


def ids(run: Registry) -> list[int]:
    return [entry.record.domid for entry in run.entries()]


def test_a_domain_comes_and_goes(run: Registry) -> None:
    assert run.entries() == []
    member = add(run)
    (entry,) = run.entries()
    assert (entry.alive, entry.record) == (True, member.record)
    assert json.loads((entry.folder / "config.json").read_text()) == {"a": 1}
    assert run.find("web") == run.find("1") == entry
    assert run.tidy() == []
    member.leave()
    assert run.entries() == []
    assert not list(run.folder.glob("domains/*"))


def test_numbers_ascend_and_wrap(run: Registry) -> None:
    first, second = add(run, "a"), add(run, "b")
    first.leave()
    third = add(run, "c")
    assert ids(run) == [2, 3]
    (run.folder / "next-domid").write_text(str(LAST_DOMAIN))
    fourth, fifth, sixth = add(run, "d"), add(run, "e"), add(run, "f")
    assert ids(run) == [1, 2, 3, 4, LAST_DOMAIN]
    for member in (second, third, fourth, fifth, sixth):
        member.leave()


def test_names_are_used_once(run: Registry) -> None:
    member = add(run)
    with pytest.raises(PyxenError, match=r"^name: there is a domain web already, number 1$"):
        add(run)
    other = add(run, "db")
    with pytest.raises(PyxenError, match="there is a domain web already"):
        other.rename("web")
    other.rename("db")
    member.rename("www", "other-uuid")
    other.rename("web")
    found = [(entry.record.name, entry.record.uuid) for entry in run.entries()]
    assert found == [("www", "other-uuid"), ("web", "uuid")]
    assert [path.name for path in (run.folder / "domains").glob(".new*")] == []
    member.leave()
    other.leave()


def test_a_domain_begins_anew_with_the_next_number(run: Registry) -> None:
    member = add(run)
    (member.folder / "console.sock").write_text("")
    assert member.renumber(5.0, 16, 2) == 2
    (entry,) = run.entries()
    assert (entry.record.domid, entry.record.started, entry.alive) == (2, 5.0, True)
    assert (entry.record.memory_mib, entry.record.vcpus) == (16, 2)
    assert (entry.folder.name, (entry.folder / "console.sock").exists()) == ("2", True)
    member.leave()


@pytest.mark.parametrize("qualifier", ("web", "2", "01", "", "-1", "²", "9" * 5000))
def test_who_is_not_there(run: Registry, qualifier: str) -> None:
    member = add(run, "other")
    with pytest.raises(PyxenError, match=r"is an invalid domain identifier$"):
        run.find(qualifier)
    member.leave()


LIVES = """
import sys, time
from pathlib import Path
from pyxen.toolstack.registry import Record, Registry
Registry(Path(sys.argv[1])).add(lambda domid: Record(domid, "web", "", 7, 0.0, "/log", 64, 1), {})
print("added", flush=True)
time.sleep(600)
"""


def test_a_killed_process_is_found_and_tidied(run: Registry) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LIVES, str(run.folder)], stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"added\n"
        assert [entry.alive for entry in run.entries()] == [True]
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
    (entry,) = run.entries()
    assert not entry.alive
    assert entry.reason == (
        "web (1): its process 7 was killed or failed; what it has said is in /log"
    )
    member = add(run)  # its name is free
    assert member.record.domid == 2
    (dead,) = run.tidy()
    assert dead.record == entry.record
    assert ids(run) == [2]
    member.leave()


KILLED_AT_EACH_MOMENT = """
import os, signal, sys
from itertools import count
from pathlib import Path
from pyxen.toolstack.registry import Record, Registry

run = Registry(Path(sys.argv[1]))
CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")

def live():
    member = run.add(lambda domid: Record(domid, "web", "", os.getpid(), 0.0, "/log", 64, 1), {})
    member.save_config({"a": 1})
    member.renumber(2.0, 64, 1)
    member.rename("www")
    member.leave()

def die_at(moment):
    moments = count()
    def hook(event, arguments):
        if event in CHANGES and next(moments) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

for moment in count():
    child = os.fork()
    if not child:
        die_at(moment)
        live()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    run.tidy()
    print(moment, sorted(str(path.relative_to(run.folder)) for path in run.folder.rglob("*")))
    if not status:
        break
"""


def test_a_process_that_is_killed_at_any_moment_leaves_nothing(run: Registry) -> None:
    add(run).leave()
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EACH_MOMENT, str(run.folder)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    lines = done.stdout.splitlines()
    kept = "['boot-id', 'domains', 'domains.lock', 'next-domid']"
    assert [line for line in lines if not line.endswith(kept)] == []
    assert len(lines) > 30


def test_what_a_reboot_has_left_is_removed(run: Registry) -> None:
    add(run)  # whose lock is still held: the file of another boot says nothing
    (run.folder / "boot-id").write_text("another")
    assert run.entries() == []
    member = add(run)
    assert ids(run) == [1]
    assert member.record.domid == 1
    member.leave()


def test_a_record_that_was_not_written_whole(run: Registry) -> None:
    member = add(run)
    (member.folder / "state.json").write_text("{")
    (entry,) = run.entries()
    assert (entry.record.name, entry.alive) == ("domain-1", True)
    member.leave()


def _add_many(folder: Path, number: int) -> None:
    run = Registry(folder)
    for turn in range(10):
        add(run, f"domain{number}-{turn}")


def test_numbers_are_given_once_to_processes_at_the_same_moment(run: Registry) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_add_many, args=(run.folder, n)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    assert ids(run) == list(range(1, 31))
    assert not any(entry.alive for entry in run.entries())
    assert len(run.tidy()) == 30


def test_looking_is_possible_at_any_moment(run: Registry) -> None:
    deadline = time.monotonic() + 0.3
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_add_many, args=(run.folder, 1))
    process.start()
    while process.is_alive() or time.monotonic() < deadline:
        run.entries()
    process.join(PATIENCE)
    assert len(run.entries()) == 10


def _renumber(folder: Path, times: int) -> None:
    member = add(Registry(folder), "web")
    for _ in range(times):
        member.renumber(2.0, 64, 1)
    member.leave()


def test_a_domain_is_found_while_it_begins_anew(run: Registry) -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_renumber, args=(run.folder, 500))
    process.start()
    deadline = time.monotonic() + PATIENCE
    while not run.entries():
        assert time.monotonic() < deadline
    looks = []
    while process.is_alive():
        looks.append(len(run.entries()))
    process.join(PATIENCE)
    # It was there at each look, until it left.
    assert looks == sorted(looks, reverse=True)
    assert looks[0] == 1


def test_a_full_disk_leaves_nothing(run: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    add(run, "other").leave()

    def refuse(path: Path, text: str) -> None:
        if path.name == "state.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        path.write_text(text)

    monkeypatch.setattr(registry, "_write", refuse)
    with pytest.raises(PyxenError, match=r"state\.json: No space left on device$"):
        add(run)
    assert list((run.folder / "domains").iterdir()) == []


# Folders


def test_where_things_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYXEN_RUN", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert (folders.run_folder(), folders.log_folder()) == (
        Path("/run/pyxen"),
        Path("/var/log/pyxen"),
    )
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/u")
    assert folders.run_folder() == Path("/tmp/pyxen-1000")
    assert folders.log_folder() == Path("/home/u/.local/state/pyxen")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    monkeypatch.setenv("XDG_STATE_HOME", "/home/u/state")
    assert folders.run_folder() == Path("/run/user/1000/pyxen")
    assert folders.log_folder() == Path("/home/u/state/pyxen")
    monkeypatch.setenv("PYXEN_RUN", "/elsewhere")
    assert folders.run_folder() == Path("/elsewhere")


def test_a_folder_that_is_not_ours_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert folders.make_private(folder).stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    with pytest.raises(PyxenError, match="others can get into it"):
        folders.make_private(folder)
    shutil.rmtree(folder)
    folder.write_text("")
    with pytest.raises(PyxenError, match="run: "):
        folders.make_private(folder)
    folder.unlink()
    folder.symlink_to(tmp_path)
    with pytest.raises(PyxenError, match="is no folder"):
        folders.make_private(folder)


def test_a_folder_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.make_private(tmp_path / "run")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(PyxenError, match="belongs to somebody else"):
        folders.make_private(tmp_path / "run")
