# SPDX-License-Identifier: GPL-2.0-or-later
"""What a domain's process cannot do any more when its guest runs, and what it still can."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import attempts
import pytest

from machine import Machine, children_of
from pyxen.backends.block.storage_daemon import DAEMON
from pyxen.toolstack import sandbox

REFUSALS = ("EACCES", "ENOSYS", "EPERM")

lacking = [each for each in sandbox.mechanisms() if not each.usable]
needs_all = pytest.mark.skipif(bool(lacking), reason=f"the machine lacks {lacking}")


# What must fail, and what must work


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("attempts")
    done = subprocess.run(
        [sys.executable, attempts.__file__, folder], capture_output=True, text=True, check=True
    )
    found: dict[str, dict[str, str]] = json.loads(done.stdout)
    return found


@needs_all
@pytest.mark.parametrize("name", attempts.FORBIDDEN)
def test_what_must_fail(outcomes: dict[str, dict[str, str]], name: str) -> None:
    assert outcomes["free"][name] == attempts.DONE
    assert outcomes["shut in"][name] in REFUSALS


@needs_all
@pytest.mark.parametrize("name", attempts.CALLS)
def test_calls_that_are_not_there(outcomes: dict[str, dict[str, str]], name: str) -> None:
    assert outcomes["shut in"][name] == "ENOSYS"


@pytest.mark.parametrize("name", attempts.PERMITTED)
def test_what_must_work(outcomes: dict[str, dict[str, str]], name: str) -> None:
    assert outcomes["free"][name] == attempts.DONE
    assert outcomes["shut in"][name] == attempts.DONE


def test_what_the_machine_lacks_is_told_once(tmp_path: Path) -> None:
    """In another process, which has no landlock and no libseccomp."""
    program = (
        "import logging, os, sys\n"
        "from pyxen.toolstack import sandbox, seccomp\n"
        "logging.basicConfig(format='%(message)s')\n"
        "sandbox._SYS_LANDLOCK_CREATE_RULESET = 4095\n"
        "seccomp._LIBRARY = 'libnone.so.2'\n"
        "print([each.reason for each in sandbox.mechanisms()])\n"
        "sandbox.enter(os.open(sys.argv[1], os.O_PATH), 8)\n"
        "print(open('/etc/passwd').read(4))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True
    )
    reasons = ["", "", "the kernel has none", "there is no libnone.so.2 (Debian: libseccomp2)"]
    assert done.stdout == f"{reasons}\nroot\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("the domain is less shut in than it could be, without landlock (")
    assert line.endswith(
        "the kernel has none), seccomp (there is no libnone.so.2 (Debian: libseccomp2))"
    )


# Domains


def pid_of(machine: Machine, name: str = "web") -> int:
    return machine.registry.find(name).record.pid


def broker_of(pid: int) -> int:
    """The only child of a domain's process."""
    (child,) = children_of(pid)
    return child


@needs_all
def test_a_domain_is_shut_in_with_all_its_threads(machine: Machine, config: Path) -> None:
    machine.do("create", config)
    pid = pid_of(machine)
    threads = list(Path(f"/proc/{pid}/task").iterdir())
    assert len(threads) > 1
    for thread in threads:
        status = dict(line.split(":\t") for line in (thread / "status").read_text().splitlines())
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0
    assert re.search(r"Max core file size +0 +0 ", Path(f"/proc/{pid}/limits").read_text())
    assert "less shut in" not in machine.log("web")
    status = Path(f"/proc/{broker_of(pid)}/status").read_text()
    assert "Seccomp:\t0" in status


@needs_all
def test_all_of_pyxen_is_loaded_before_a_domain_is_shut_in(
    machine: Machine, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is loaded later has to be compiled each time, as its bytecode cannot be kept."""
    kept = machine.folder / "bytecode"
    monkeypatch.setitem(machine.environment, "PYTHONDONTWRITEBYTECODE", "")
    monkeypatch.setitem(machine.environment, "PYTHONPYCACHEPREFIX", str(kept))
    monkeypatch.setitem(machine.environment, "PYTHONPROFILEIMPORTTIME", "1")
    done = machine.call("create", config, "name='loads'", "extra='poweroff'")
    assert done.returncode == 0
    machine.until(lambda: "has been destroyed" in machine.log("loads"))
    told = done.stderr + machine.log("loads")
    loaded = set(re.findall(r"\| +(pyxen\.[\w.]+)$", told, re.MULTILINE))
    assert "pyxen.hypervisor.domain" in loaded
    compiled = [name for name in loaded if (find_spec(name).origin or "").endswith(".py")]
    assert not [name for name in compiled if not is_kept(kept, find_spec(name))]


def find_spec(name: str) -> ModuleSpec:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    return spec


def is_kept(folder: Path, module: ModuleSpec) -> bool:
    source = Path(module.origin or "")
    return (
        (folder / source.relative_to("/"))
        .with_suffix(f".{sys.implementation.cache_tag}.pyc")
        .exists()
    )


def test_all_kinds_of_devices_over_a_restart(machine: Machine, config: Path) -> None:
    raw, folder = machine.folder / "disk.img", machine.folder
    raw.write_bytes(bytes(1 << 20))
    disks = [f"{raw},raw,xvda"]
    cards = ["switch=lan", f"none,pcap={folder}/card.pcap"]
    if shutil.which("qemu-img") and shutil.which(DAEMON):
        command = ["qemu-img", "create", "-q", "-f", "qcow2", folder / "disk.qcow2", "1M"]
        subprocess.run(command, check=True)
        disks.append(f"{folder}/disk.qcow2,qcow2,xvdb")
    if shutil.which("passt"):
        cards.append("user")
    settings = [
        f"disk={disks}",
        f"vif={cards}",
        f"channel=['name=a,connection=pty', 'name=b,connection=socket,path={folder}/b']",
        f"console_log='{folder}/console.log,limit=20,keep=1'",
        f"ramdisk='{raw}'",
    ]
    machine.do("create", "-p", config, *settings, "extra='reboot'", "name='twin'")
    machine.do("create", "-p", config, "vif=['switch=lan']", "name='peer'")
    pid = pid_of(machine, "twin")
    assert len(list((machine.run / "switches" / "lan").glob("port-*"))) == 2
    assert (folder / "b").is_socket()
    machine.do("unpause", "twin")  # it reboots, and again, which is too soon
    machine.until(lambda: "it is not restarted" in machine.log("twin"))
    machine.until(lambda: len(machine.names()) == 1)
    machine.until(lambda: pid not in machine.processes())
    log = machine.log("twin")
    assert re.search(r"domain \d+ goes on as \d+\n", log)
    assert "ERROR" not in log.replace("ERROR: domain", "", 1), log
    assert (folder / "card.pcap").stat().st_size == 24
    assert "begun: reboot" in (folder / "console.log.1").read_text()
    assert len(list((machine.run / "switches" / "lan").glob("port-*"))) == 1
    assert not (folder / "b").exists()


def test_devices_are_added_and_files_written_for_the_owner(
    machine: Machine, config: Path, tmp_path: Path
) -> None:
    machine.do("create", config)
    if shutil.which("passt"):
        machine.do("network-attach", "web", "user", f"pcap={tmp_path}/card.pcap")
        assert (tmp_path / "card.pcap").exists()
    if shutil.which("qemu-img") and shutil.which(DAEMON):
        path = tmp_path / "disk.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
        machine.do("block-attach", "web", f"{path},qcow2,xvda")
        path.with_suffix(".no").write_bytes(bytes(100_000))
        refusal = machine.refusal("block-attach", "web", f"{path.with_suffix('.no')},qcow2,xvdb")
        assert "not in qcow2 format" in refusal
        machine.do("block-detach", "--force", "web", "xvda")
    machine.do("network-attach", "web", "switch=lan")
    machine.do("dump-core", "web", tmp_path / "web.core")
    assert (tmp_path / "web.core").read_bytes()[:4] == b"\x7fELF"
    assert "/none/core: No such file" in machine.refusal("dump-core", "web", "/none/core")
    machine.do("rename", "web", "mail")
    machine.do("dump-core", "mail", tmp_path / "web.core")


def test_a_domain_that_restarts_elsewhere_takes_its_devices_along(
    machine: Machine, config: Path
) -> None:
    disk = machine.folder / "moved.img"
    disk.write_bytes(bytes(1 << 20))
    machine.do("create", "-p", config, "extra='crash'", "on_crash='rename-restart'")
    first = pid_of(machine)
    machine.do("block-attach", "web", f"{disk},raw,xvda")
    machine.do("unpause", "web")
    machine.until(lambda: "it is not restarted" in machine.log("web"))
    machine.until(lambda: len(machine.names()) == 1)
    assert machine.registry.entries()[0].record.pid == first
    assert "could not be restarted" not in machine.log("web")
    assert "in use" not in machine.log("web")


def test_a_broker_ends_with_its_domain(machine: Machine, config: Path) -> None:
    card = "user" if shutil.which("passt") else "none"
    machine.do("create", config, f"vif=['switch=lan', '{card}']")
    pid = pid_of(machine)
    broker = broker_of(pid)
    os.kill(broker, signal.SIGTERM)  # which is for the domain
    os.kill(pid, signal.SIGKILL)
    machine.until(lambda: not {pid, broker} & set(machine.processes()))
    machine.until(lambda: not list((machine.run / "switches" / "lan").glob("port-*")))
    machine.until(lambda: not any("passt" in each for each in machine.leaks()))
    assert [entry.alive for entry in machine.registry.entries()] == [False]
    machine.registry.tidy()


def test_a_domain_without_its_broker_says_so_and_goes_on(machine: Machine, config: Path) -> None:
    machine.do("create", config, "name='alone'")
    pid = pid_of(machine, "alone")
    os.kill(broker_of(pid), signal.SIGKILL)
    machine.until(lambda: "broker" in machine.refusal("network-attach", "alone", "none"))
    assert machine.registry.find("alone").alive
    machine.do("pause", "alone")
    machine.do("destroy", "alone")
    assert "Traceback" not in machine.log("alone")
    assert "the domain's broker has ended" in machine.log("alone")
