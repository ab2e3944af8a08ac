# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains in processes of their own, made, looked at and ended by commands, with a small kernel.

The tests share one host, and leave no domain on it.
"""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from machine import Machine, command_of
from pyxen.toolstack.domains import at_once
from pyxen.toolstack.registry import Entry
from pyxen.xenstore import Client, StoreError

IDLE = "-b----"


def domain_id(machine: Machine, name: str = "web") -> int:
    return int(machine.do("domid", name))


def pid_of(machine: Machine, name: str = "web") -> int:
    return machine.registry.find(name).record.pid


def store_of(machine: Machine) -> Client:
    return Client(machine.run / "xenstored.sock", timeout=60.0)


# Making domains


def test_a_domain_lives_on_and_is_found_again(machine: Machine, config: Path) -> None:
    done = machine.call("create", config)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"Parsing config from {config}\n"
    domid = domain_id(machine)
    machine.until(lambda: machine.names() == {domid: f"web {IDLE}"})
    assert machine.do("domname", str(domid)) == "web\n"
    pid = pid_of(machine)
    assert os.getsid(pid) != os.getsid(0)
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    with store_of(machine) as store:
        assert store.read(f"/local/domain/{domid}/name") == b"web"
        machine.do("destroy", "web")
        with pytest.raises(StoreError, match="ENOENT"):
            store.read(f"/local/domain/{domid}")
    assert machine.names() == {}
    machine.until(lambda: pid not in machine.processes())


def test_numbers_ascend(machine: Machine, config: Path) -> None:
    machine.do("create", "-q", config)
    first = domain_id(machine)
    machine.do("destroy", str(first))
    machine.do("create", config)
    assert domain_id(machine) == first + 1


def test_two_domains_and_settings_on_the_command_line(machine: Machine, config: Path) -> None:
    machine.do("create", config, "memory=12")
    machine.do("create", "/dev/null", *config.read_text().splitlines(), "name='db'", "vcpus=2")
    web, db = domain_id(machine), domain_id(machine, "db")
    lines = {line.split()[0]: line.split() for line in machine.do("list").splitlines()}
    assert lines["web"][1:4] == [str(web), "12", "1"]
    assert lines["db"][1:3] == [str(db), "8"]
    machine.do("destroy", "web")
    assert list(machine.names()) == [db]


@pytest.mark.parametrize(
    ("setting", "message"),
    (
        ("kernel='/none'", "/none: "),
        ("kernel='/etc/passwd'", "/etc/passwd: "),
        ("ramdisk='/none'", "/none: "),
        ("memory=1", "memory"),
        ("memory=16000000", "memory: 16000000 MiB asked for, and the host has "),
        ("disk=['/none,raw,xvda']", "/none"),
        ("vcpus=0x1000", "command line:1: vcpus: 4096 asked for, expected 1 to 128"),
        ("name=web", "command line:1: expected a string"),
        ("system_map='/none'", "/none: "),
        ("console_log='/none/log'", "/none/log: No such file or directory"),
    ),
)
def test_errors_reach_whoever_creates_and_leave_nothing(
    machine: Machine, config: Path, setting: str, message: str
) -> None:
    assert message in machine.refusal("create", config, setting)
    assert machine.names() == {}
    assert machine.leaks() == []
    if (machine.run / "xenstored.sock").exists():
        with store_of(machine) as store:
            assert store.directory("/local/domain") in (["0"], [])


def test_a_name_is_used_once(machine: Machine, config: Path) -> None:
    machine.do("create", config)
    domid = domain_id(machine)
    expected = f"name: there is a domain web already, number {domid}"
    assert machine.refusal("create", config) == expected
    machine.do("create", config, 'name="db"')
    assert machine.refusal("rename", "db", "web") == expected
    machine.do("rename", "db", "mail")
    assert {name.split()[0] for name in machine.names().values()} == {"web", "mail"}
    with store_of(machine) as store:
        path = f"/local/domain/{domain_id(machine, 'mail')}"
        assert store.read(f"{path}/name") == b"mail"
        assert store.read(f"{store.read(f'{path}/vm').decode()}/name") == b"mail"


def test_two_at_the_same_moment(machine: Machine, config: Path) -> None:
    command = [sys.executable, "-m", "pyxen", "create", "-q", str(config)]
    both = [
        subprocess.Popen(command, env=machine.environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ends = sorted((process.wait(60), process.communicate()[1]) for process in both)
    assert [status for status, _ in ends] == [0, 1]
    assert ends[1][1].startswith("pyxen: name: there is a domain web already, number ")
    assert len(machine.names()) == 1


@pytest.mark.parametrize("order", (b"", b'{"config": {'))
def test_a_process_whose_starter_was_killed_ends_in_silence(order: bytes) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyxen.toolstack.process"],
        input=order,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout, done.stderr) == (b"", b"")


def test_a_log_that_cannot_be_written_is_told_in_one_line(machine: Machine, config: Path) -> None:
    log = machine.folder / "state" / "pyxen" / "mute.log"
    machine.do("create", config)  # the folder is there
    log.mkdir()
    assert machine.refusal("create", config, "name='mute'") == f"{log}: Is a directory"
    log.rmdir()


def test_a_full_disk(machine: Machine, config: Path) -> None:
    machine.do("create", config, 'name="before"')  # the store is there

    def nothing_can_be_written() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    done = machine.call("create", config, limit=nothing_can_be_written)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("File too large")
    assert len(done.stderr.splitlines()) == 2
    assert [name.split()[0] for name in machine.names().values()] == ["before"]


def test_dry_run(machine: Machine, config: Path) -> None:
    for arguments in (("create", "-n"), ("-N", "create")):
        shown = json.loads(machine.do(*arguments, config, "memory=64"))
        assert shown["b_info"]["target_memkb"] == 65536
    assert machine.names() == {}


def test_notes_are_told(machine: Machine, config: Path) -> None:
    done = machine.call("create", "-q", config, "hap=1", "memroy=1")
    assert done.returncode == 0
    assert done.stderr == (
        "pyxen: command line:2: memroy: unknown option (is memory meant?); left out\n"
        f"pyxen: {config}: of no meaning for a PV guest: hap\n"
    )


# Looking


def test_the_formats_of_lists(machine: Machine, config: Path) -> None:
    uuid = "3f0e5e2c-1b7f-4c3a-9d45-0a1b2c3d4e5f"
    machine.do("create", "-p", config, f'uuid="{uuid}"', "vcpus=2")
    domid = domain_id(machine)
    header, host, line = machine.do("list").splitlines()
    assert header == "Name                                        ID   Mem VCPUs\tState\tTime(s)"
    assert re.fullmatch(r"Domain-0 {32} {5}0 +\d+ +\d+     r-----  +\d+\.\d", host)
    assert line == f"web{'':37} {domid:5d}     8     1     --p---       0.0"
    header, _, line = machine.do("list", "-v").splitlines()
    assert header.endswith("Time(s)   UUID                            Reason-Code\tSecurity Label")
    assert line.endswith(f"0.0 {uuid}        -                -")
    shown = {each["domid"]: each["config"] for each in json.loads(machine.do("list", "-l"))}
    assert shown[0]["c_info"]["name"] == "Domain-0"
    assert shown[domid]["c_info"] == {"type": "pv", "name": "web", "uuid": uuid}
    (one,) = json.loads(machine.do("list", "-l", "web"))
    assert one == {"domid": domid, "config": shown[domid]}
    header, first, second = machine.do("vcpu-list", "web").splitlines()
    assert header == (
        "Name                                ID  VCPU   CPU State   Time(s) Affinity (Hard / Soft)"
    )
    cpu = first.split()[3]
    assert int(cpu) in range(os.cpu_count() or 1)
    assert first == f"web{'':29} {domid:5d}     0 {cpu:>4}   ---       0.0  all / all"
    assert second == f"web{'':29} {domid:5d}     1    -   --p       0.0  all / all"
    header, line = machine.do("uptime", "web").splitlines()
    assert header == "Name                                ID Uptime"
    assert re.fullmatch(rf"web {{30}} {domid:>4}  0:00:\d\d", line)
    assert re.fullmatch(
        r" \d\d:\d\d:\d\d up  0:00, web \(\d+\)\n", machine.do("uptime", "-s", "web")
    )


def test_who_is_not_there(machine: Machine, config: Path) -> None:
    for verb in ("pause", "destroy", "console", "uptime", "vcpu-list", "block-list", "shutdown"):
        assert machine.refusal(verb, "none") == "none is an invalid domain identifier"
    assert machine.refusal("domid", "none").startswith("Can't get domid of domain name 'none'")
    assert machine.refusal("domname", "77").startswith("Can't get domain name of domain id '77'")
    assert machine.refusal("save", "x", "y") == "save: pyxen cannot do this yet"


def test_pause_stops_the_time_of_a_domain(machine: Machine, config: Path) -> None:
    machine.do("create", "-p", config, "extra='ticks'", 'name="clock"')
    domid = domain_id(machine, "clock")
    assert machine.names() == {domid: "clock --p---"}
    assert machine.console_log("clock") == ""
    machine.do("unpause", "clock")
    machine.until(lambda: "tick 3" in machine.console_log("clock"))
    machine.do("pause", "clock")
    machine.do("pause", "clock")
    printed = machine.console_log("clock")
    time.sleep(0.3)
    assert machine.console_log("clock") == printed
    assert machine.names()[domid].split()[1][2] == "p"
    machine.do("unpause", str(domid))
    machine.until(lambda: machine.console_log("clock") > printed)


def test_the_messages_of_all_domains(machine: Machine, config: Path) -> None:
    machine.do("dmesg", "-c")
    assert machine.do("dmesg") == ""
    machine.do("create", config)
    web = domain_id(machine)
    machine.do("destroy", "web")
    machine.do("create", "-F", config, "extra='crash'", "name='db'")
    shown = [line.split("] ", 1) for line in machine.do("dmesg", "--clear").splitlines()]
    assert all(re.fullmatch(r"\(XEN\) \[[-: \d]{19}", stamp) for stamp, _ in shown)
    texts = [text for _, text in shown]
    for expected in (
        f"d{web} domain {web} has been created: web",
        f"d{web} domain {web} has been destroyed",
        f"d{web + 1} domain {web + 1} has been created: db",
        f"d{web + 1} domain {web + 1} crashed: the guest shut down: crash",
        f"d{web + 1}   begun: crash",  # the report's last console output
        f"d{web + 1} domain {web + 1} has shut down: crash; action: destroy",
    ):
        assert expected in texts
    assert machine.do("dmesg") == ""


def test_debug_keys(machine: Machine, config: Path) -> None:
    machine.do("create", config, "extra='debug'", "vcpus=2")
    machine.do("create", "-p", config, "name='db'")
    web, db = domain_id(machine), domain_id(machine, "db")
    machine.until(lambda: "debug event 0" in machine.console_log("web"))
    machine.do("dmesg", "-c")
    machine.do("debug-keys", "q")
    machine.until(lambda: "debug event 1" in machine.console_log("web"))
    port = machine.console_log("web").split()[-1]
    lines = [line.split("] ", 1)[1] for line in machine.do("dmesg", "-c").splitlines()]
    assert lines[:2] == [
        "'q' pressed -> dumping domain info",
        f"General information for domain {web}:",
    ]
    assert f"Notifying guest {web}:0 (virq 1, port {port})" in lines
    assert f"Notifying guest {web}:1 (virq 1, port 0)" in lines
    assert f"Notifying guest {db}:0 (virq 1, port 0)" in lines
    machine.do("debug-keys", "eZ")  # which does nothing
    text = machine.do("dmesg", "-c")
    assert f"Event channel information for domain {db}:" in text
    assert re.search(rf"   {port} \[0/0/0\]: s=5 n=0 x=0 v=1\n", text)
    machine.do("debug-keys", "h*")
    text = machine.do("dmesg")
    assert " key 'q' (ascii '71') => dump domain (and guest debug) info\n" in text
    assert "[g: print grant table usage]\n" in text
    assert f"*** Dumping CPU0 guest state (d{web}v0): ***\n" in text


# Consoles


def test_the_console_from_its_first_byte_for_several(machine: Machine, config: Path) -> None:
    machine.do("create", config, "extra='ticks'")
    readers = [
        subprocess.Popen(
            [sys.executable, "-m", "pyxen", "console", "web"],
            env=machine.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for reader in readers:
        assert reader.stdout is not None
        assert [reader.stdout.readline().strip() for _ in range(3)] == [
            "begun: ticks",
            "tick 0",
            "tick 1",
        ]
    readers[0].terminate()
    assert readers[0].wait(60) == 128 + signal.SIGTERM
    machine.do("destroy", "web")  # which ends the other
    with readers[1] as reader:
        assert reader.stdout is not None
        assert "tick 2" in reader.stdout.read()
    assert reader.returncode == 0
    readers[0].communicate()


def test_create_with_its_console(machine: Machine, config: Path) -> None:
    done = machine.call("create", "-c", config, "extra='poweroff'")
    assert (done.returncode, done.stdout.splitlines()) == (0, ["begun: poweroff"])
    machine.until(lambda: machine.names() == {})


@pytest.mark.parametrize("how", ("key", "hang-up"))
def test_a_domain_outlives_the_terminal(machine: Machine, config: Path, how: str) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-m", "pyxen", "create", "-c", config],
        env=machine.environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    shown = b""
    while b"begun" not in shown:
        shown += os.read(master, 4096)
    if how == "key":
        os.write(master, b"\x1d")
        assert process.wait(60) == 0
        os.close(master)
    else:
        os.close(master)
        assert process.wait(60) == 128 + signal.SIGHUP
    assert b"Ctrl-] leaves the console; the domain goes on" in shown
    machine.until(lambda: list(machine.names().values()) == [f"web {IDLE}"])


def test_create_in_the_foreground(machine: Machine, config: Path) -> None:
    machine.do("create", "-F", config, "extra='poweroff'")
    assert machine.names() == {}


# The end


def test_a_domain_that_powers_off_is_destroyed(machine: Machine, config: Path) -> None:
    machine.do("create", config, "extra='poweroff'")
    machine.until(lambda: machine.names() == {})
    assert "has shut down: poweroff; action: destroy" in machine.log("web")


@pytest.mark.parametrize(
    ("how", "state"), (("poweroff", "---s--"), ("crash", "---sc-"), ("watchdog", "---sw-"))
)
def test_preserved(machine: Machine, config: Path, how: str, state: str) -> None:
    machine.do("create", config, f"extra='{how}'", f"on_{how}='preserve'")
    domid = domain_id(machine)
    machine.until(lambda: machine.names() == {domid: f"web {state}"})
    assert machine.refusal("sysrq", "web", "s") == f"the domain has shut down ({how})"
    if how == "crash":
        assert "domain" in machine.log("web")
        assert "last console output:\n  begun: crash" in machine.log("web")
    machine.do("destroy", "web")
    assert machine.names() == {}


def test_a_reboot_gives_a_new_number_and_a_loop_is_stopped(machine: Machine, config: Path) -> None:
    # The console outlives the restart.
    output = machine.do("create", "-c", config, "extra='reboot'")
    assert output.splitlines() == ["begun: reboot"] * 2
    machine.until(lambda: machine.names() == {})
    log = machine.log("web")
    restart = re.search(r"domain (\d+) goes on as (\d+)\n", log)
    assert restart
    first, second = map(int, restart.groups())
    assert second == first + 1
    assert re.search(rf"domain {second} was restarted \d\.\d s ago and ends again", log)


def test_a_restart_by_another_configuration(
    machine: Machine, config: Path, kernel: Path, tmp_path: Path
) -> None:
    other = tmp_path / "vmlinuz"
    other.write_bytes(kernel.read_bytes())
    machine.do("create", "-p", config, "extra='reboot'")
    first = domain_id(machine)
    shown = json.loads(machine.do("-N", "config-update", "web", config, "memory=12"))
    assert (shown["domid"], shown["config"]["b_info"]["target_memkb"]) == (None, 12288)
    settings = ("memory=12", "vcpus=2", "extra='ticks'", f"kernel='{other}'")
    done = machine.call("config-update", str(first), config, *settings)
    assert (done.returncode, done.stdout) == (0, "")
    warning, setting = done.stderr.splitlines()
    assert warning.startswith("WARNING: ")
    assert setting == f"setting dom{first} configuration"
    (now,) = json.loads(machine.do("list", "-l", "web"))
    assert now["config"]["b_info"]["target_memkb"] == 8192
    machine.do("rename", "web", "mail")
    machine.do("unpause", "mail")
    machine.until(lambda: "tick 1" in machine.console_log("web"))
    assert domain_id(machine, "mail") == first + 1
    (now,) = json.loads(machine.do("list", "-l", "mail"))
    assert now["config"]["b_info"]["target_memkb"] == 12288
    assert now["config"]["b_info"]["kernel"] == str(other)
    assert machine.do("list", "mail").splitlines()[1].split()[2] == "12"
    assert machine.registry.find("mail").record.vcpus == 2


def test_a_configuration_that_cannot_be(machine: Machine, config: Path) -> None:
    machine.do("create", config)
    uuid = "3f0e5e2c-1b7f-4c3a-9d45-0a1b2c3d4e5f"
    for settings, message in (
        (["name='db'"], "name: db: it is web, over restarts too"),
        ([f"uuid='{uuid}'"], f"uuid: {uuid}: it is "),
        (["console_log='/tmp/x'"], "console_log: the file stays open over restarts"),
        (["kernel='/none'"], "/none: "),
        (["ramdisk='/none'"], "/none: No such file or directory"),
        (["memory=x"], "command line:1: "),
    ):
        done = machine.call("config-update", "web", "-f", config, *settings)
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr.splitlines()[-1]
    done = machine.call("config-update", "web")
    assert done.stderr.splitlines()[-1] == "pyxen: no configuration file is given"


def test_rename_restart(machine: Machine, config: Path) -> None:
    machine.do("create", "-p", config, "extra='crash'", "on_crash='rename-restart'", "name='twin'")
    first = domain_id(machine, "twin")
    machine.do("unpause", "twin")
    # The second one ends too soon to be restarted, and is destroyed.
    machine.until(lambda: "it is not restarted" in machine.log("twin"))
    machine.until(lambda: len(machine.names()) == 1)
    names = machine.names()
    assert list(names) == [first]
    assert re.fullmatch(r"twin-\d{8}T\d{4}Z ---sc-", names[first])


def test_core_dumps(machine: Machine, config: Path) -> None:
    machine.do("create", "-c", config, "extra='crash'", "on_crash='coredump-destroy'")
    machine.until(lambda: machine.names() == {})
    elf = b"\x7fELF"
    assert (machine.folder / "state/pyxen/dump/web.core").read_bytes()[:4] == elf
    machine.do("create", config)
    machine.do("dump-core", "web", machine.folder / "asked.core")
    assert (machine.folder / "asked.core").read_bytes()[:4] == elf
    assert "/none/core: " in machine.refusal("dump-core", "web", "/none/core")


def test_a_killed_process_is_shown_and_the_others_go_on(machine: Machine, config: Path) -> None:
    machine.do("create", config)
    machine.do("create", config, "name='db'")
    web, db = domain_id(machine), domain_id(machine, "db")
    pid = pid_of(machine)
    os.kill(pid, signal.SIGKILL)
    machine.until(lambda: not machine.registry.find("web").alive)
    done = machine.call("list")
    assert f"web{'':37} {web:5d}     0     0     ---sc-       0.0\n" in done.stdout
    assert done.stderr == (
        f"pyxen: web ({web}): its process {pid} was killed or failed; what it has said is in "
        f"{machine.folder}/state/pyxen/web.log\n"
    )
    assert machine.names()[db] == f"db {IDLE}"
    assert "was killed or failed" in machine.refusal("pause", "web")
    with store_of(machine) as store:
        machine.until(lambda: str(web) not in store.directory("/local/domain"))
    machine.do("create", config)  # its name is free, and it is tidied away
    assert sorted(machine.names()) == [db, web + 2]


def test_a_busy_domain_is_destroyed(machine: Machine, config: Path) -> None:
    machine.do("create", config, "extra='busy'")
    machine.until(lambda: machine.names() == {domain_id(machine): "web r-----"})
    os.kill(pid_of(machine), signal.SIGTERM)
    machine.until(lambda: machine.names() == {})
    assert "SIGTERM: the domain is destroyed" in machine.log("web")
    machine.do("create", config, "extra='busy'")
    machine.do("destroy", "web")
    assert machine.names() == {}


def test_shutdown_waits_for_nobody_who_does_not_listen(machine: Machine, config: Path) -> None:
    # This kernel does not look at its xenstore. A time limit of a second is not xl's.
    from pyxen.errors import PyxenError
    from pyxen.toolstack.control.client import ControlClient
    from pyxen.toolstack.control.messages import Shutdown

    machine.do("create", config)
    folder = machine.registry.find("web").folder
    with (
        ControlClient(folder, 60.0) as client,
        pytest.raises(
            PyxenError, match=r"has not acknowledged the request \(reboot\) within 0.2 s"
        ),
    ):
        client.ask(Shutdown("reboot", 0.2))
    with store_of(machine) as store:
        path = f"/local/domain/{domain_id(machine)}/control/shutdown"
        assert store.read(path) == b"reboot"
        store.write(path, "")


def test_sizes(machine: Machine, config: Path) -> None:
    machine.do("create", config, "maxmem=32", "maxvcpus=4", "vcpus=2")
    domid = domain_id(machine)
    machine.do("mem-set", "web", "16")
    machine.do("vcpu-set", "-i", "web", "3")
    with store_of(machine) as store:
        path = f"/local/domain/{domid}"
        assert store.read(f"{path}/memory/target") == b"16384"
        assert store.read(f"{path}/memory/static-max") == b"32768"
        online = [store.read(f"{path}/cpu/{index}/availability") for index in range(4)]
        assert online == [b"online"] * 3 + [b"offline"]
        machine.do("mem-max", "web", "24m")
        assert store.read(f"{path}/memory/static-max") == b"24576"
    assert "the maximum is 24576" in machine.refusal("mem-set", "web", "25")
    assert "is less than the target" in machine.refusal("mem-max", "web", "8")
    assert "was made for 32768" in machine.refusal("mem-max", "web", "33")
    assert "expected 1 to 4" in machine.refusal("vcpu-set", "-i", "web", "5")
    assert "use --ignore-host" in machine.refusal("vcpu-set", "web", "100")
    assert machine.refusal("trigger", "web", "reset") == "trigger: reset: PV guests know nmi only"
    assert "no vCPU 7" in machine.refusal("trigger", "web", "nmi", "7")
    assert machine.refusal("sysrq", "web", "xx") == "Invalid sysrq."
    assert machine.refusal("trigger", "web", "x") == 'Invalid trigger "x"'


def test_consoles_are_listed(machine: Machine, config: Path) -> None:
    socket = f"name=b,connection=socket,path={machine.folder}/b"
    machine.do("create", "-p", config, f"channel=['name=a,connection=pty', '{socket}']")
    header, first, second = machine.do("channel-list", "web").splitlines()
    assert header == f"Idx BE state evt-ch ring-ref connection {'':<30}"
    assert re.fullmatch(r"1   0  1     -1     -1       pty        /dev/pts/\d+ +", first)
    assert second == "2   0  1     -1     -1       socket     "


def test_domains_are_asked_at_the_same_time(machine: Machine, config: Path) -> None:
    for number in range(3):
        machine.do("create", "-p", config, f"name='guest{number}'")
    barrier = threading.Barrier(3)  # passed when all three are there

    def name(entry: Entry) -> str:
        barrier.wait(60.0)
        return entry.record.name

    assert at_once(name, machine.registry.entries()) == ["guest0", "guest1", "guest2"]


def test_devices_come_go_and_are_kept_for_a_restart(machine: Machine, config: Path) -> None:
    image = machine.folder / "disk.img"
    image.write_bytes(bytes(1 << 20))
    machine.do("create", config)
    domid = domain_id(machine)
    machine.do("block-attach", "web", f"{image},raw,xvda,rw")
    machine.do("network-attach", "web", "none", "mac=00:16:3e:01:02:03")
    header, line = machine.do("block-list", "web").splitlines()
    assert header == f"Vdev  BE  handle state evt-ch ring-ref {'BE-path':<30}"
    backend = f"/local/domain/0/backend/vbd/{domid}/51712"
    assert line == f"51712 0   {domid:<6d} 1     -1     -1       {backend:<30}"
    header, line = machine.do("network-list", "web").splitlines()
    assert header == (
        f"Idx BE Mac Addr.         handle state evt-ch   tx-/rx-ring-ref {'BE-path':<30}"
    )
    backend = f"/local/domain/0/backend/vif/{domid}/0"
    assert line == (f"0   0  00:16:3e:01:02:03     0     1     -1    -1/-1          {backend:<30}")
    (shown,) = json.loads(machine.do("list", "-l", "web"))
    assert [disk["vdev"] for disk in shown["config"]["disks"]] == ["xvda"]
    assert [nic["mac"] for nic in shown["config"]["nics"]] == ["00:16:3e:01:02:03"]
    assert "disk 51712: the domain has one" in machine.refusal(
        "block-attach", "web", f"{image},raw,xvda,rw"
    )
    machine.do("create", config, "name='db'")
    assert "in use" in machine.refusal("block-attach", "db", f"{image},raw,xvda,rw")
    machine.do("block-detach", "--force", "web", "xvda")
    assert len(machine.do("block-list", "web").splitlines()) == 1
    machine.do("block-attach", "db", f"{image},raw,xvda,rw")
    assert machine.refusal("network-detach", "web", "7") == "Unknown device 7."
    (shown,) = json.loads(machine.do("list", "-l", "web"))
    assert "disks" not in shown["config"]


def kill_store(machine: Machine) -> None:
    for pid in machine.processes():
        if "xenstored" in command_of(pid):
            os.kill(pid, signal.SIGKILL)


def test_a_domain_ends_in_order_though_its_store_has_gone(machine: Machine, config: Path) -> None:
    image = machine.folder / "other.img"
    image.write_bytes(bytes(1 << 20))
    machine.do("create", config, f"disk=['{image},raw,xvda,rw']", "name='orphan'")
    kill_store(machine)
    machine.until(lambda: "xenstored has ended" in machine.log("orphan"))
    assert "closed" in machine.refusal("mem-set", "orphan", "4")
    machine.do("pause", "orphan")
    machine.do("destroy", "orphan")
    assert "has been destroyed" in machine.log("orphan")
    assert "Traceback" not in machine.log("orphan")
    machine.do("create", config, f"disk=['{image},raw,xvda,rw']")  # with a new store
    assert len(machine.names()) == 1


def test_a_domain_has_a_new_name_though_its_store_has_gone(machine: Machine, config: Path) -> None:
    machine.do("create", config)
    kill_store(machine)
    machine.until(lambda: "xenstored has ended" in machine.log("web"))
    machine.do("rename", "web", "mail")
    assert [name.split()[0] for name in machine.names().values()] == ["mail"]
    machine.until(lambda: "the store does not know" in machine.log("web"))


def test_rename_restart_though_its_store_has_gone(machine: Machine, config: Path) -> None:
    machine.do("create", "-p", config, "extra='crash'", "on_crash='rename-restart'")
    kill_store(machine)
    machine.do("unpause", "web")
    machine.until(lambda: "it is not restarted" in machine.log("web"))
    assert "could not be restarted" not in machine.log("web")
    assert "Traceback" not in machine.log("web")


def test_the_store_ends_when_the_last_domain_has_gone(kernel: Path) -> None:
    with Machine() as machine:
        machine.do("create", "/dev/null", f'kernel="{kernel}"', "memory=8", "name='web'")
        machine.do("destroy", "web")
        machine.until(lambda: not machine.processes())
        left = sorted(path.name for path in machine.run.iterdir())
        assert left == ["boot-id", "dmesg", "domains", "domains.lock", "next-domid", "scheduler"]
        assert list((machine.run / "domains").iterdir()) == []
