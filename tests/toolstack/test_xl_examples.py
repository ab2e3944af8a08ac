# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands of xl(1) that are for PV guests, and the examples of it, xl.cfg(5),
xl-disk-configuration(5), xl-network-configuration(5) and ``xlexample.pvlinux``: each is called, and
what it prints is compared with xl's formats (``xl_formats.py``).

What needs Linux in the guest to answer (``shutdown``, ``reboot``, the balloon) is in
``test_domain_debian.py``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import xl_formats as xl
from xl_formats import values

from machine import Machine

UUID = "59e1cf6c-6ab9-4879-90e7-adc8d1c63bf5"


@pytest.fixture
def linux(machine: Machine, config: Path) -> int:
    """The number of a domain ``linux``, with two vCPUs, up to 32 MiB and a disk image beside it."""
    (machine.folder / "guest-volume").write_bytes(bytes(1 << 20))
    (machine.folder / "image.iso").write_bytes(bytes(1 << 20))
    machine.do("create", "-q", config, f'name="linux"; uuid="{UUID}"', "vcpus=2; maxmem=32")
    return int(machine.do("domid", "linux"))


def rows(machine: Machine, *command: str) -> tuple[str, list[str]]:
    """The head of a table, and the rows below."""
    header, *lines = machine.do(*command).splitlines()
    return header, lines


# Domain subcommands


def test_create_with_extra_parameters(machine: Machine, config: Path) -> None:
    # xl create hvm.cfg 'cpus="0-3"; pci=["01:05.1","01:05.2"]'
    settings = 'cpus="0-3"; pci=["01:05.1","01:05.2"]'
    shown = json.loads(machine.do("create", "-n", config, settings))
    assert shown["c_info"]["name"] == "web"
    machine.do("create", f"--defconfig={config}", "-p", 'name="h0"; type="pv"')
    assert list(machine.names().values()) == ["h0 --p---"]


def test_create_of_the_example_for_pv_linux(machine: Machine, kernel: Path) -> None:
    # xlexample.pvlinux, with files that are there and a card that is connected with nothing
    volume = machine.folder / "guest-volume"
    volume.write_bytes(bytes(1 << 20))
    config = machine.folder / "example.cfg"
    config.write_text(
        'name = "example.pvlinux"\n'
        f'kernel = "{kernel}"\n'
        'extra = "root=/dev/xvda1"\n'
        "memory = 128\n"
        "vcpus = 2\n"
        "vif = [ 'none' ]\n"
        f"disk = [ '{volume},raw,xvda,rw' ]\n"
    )
    machine.do("create", config)
    machine.until(lambda: "root=/dev/xvda1" in machine.console_log("example.pvlinux"))
    _, (_, line) = rows(machine, "list")
    assert values(line, xl.LIST)[2:4] == [128, 1]
    _, (disk,) = rows(machine, "block-list", "example.pvlinux")
    assert values(disk, xl.BLOCK_LIST)[0] == 51712
    _, (card,) = rows(machine, "network-list", "example.pvlinux")
    assert str(values(card, xl.NETWORK_LIST)[2]).startswith("00:16:3e:")


@pytest.mark.parametrize(
    ("options", "more_header", "more"),
    (
        ((), "", ""),
        (("-v",), xl.LIST_VERBOSE_HEADER, xl.LIST_VERBOSE),
        (("--verbose",), xl.LIST_VERBOSE_HEADER, xl.LIST_VERBOSE),
        (("-Z",), xl.LIST_CONTEXT_HEADER, xl.LIST_CONTEXT),
        (("--cpupool",), xl.LIST_CPUPOOL_HEADER, xl.LIST_CPUPOOL),
        (("-n",), xl.LIST_NUMA_HEADER, xl.LIST_NUMA),
        (
            ("-cn",),
            xl.LIST_CPUPOOL_HEADER + xl.LIST_NUMA_HEADER,
            xl.LIST_CPUPOOL + xl.LIST_NUMA,
        ),
    ),
)
def test_list(
    machine: Machine, linux: int, options: tuple[str, ...], more_header: str, more: str
) -> None:
    header, (host, guest) = rows(machine, "list", *options)
    assert header == xl.LIST_HEADER + more_header
    told = values(host, xl.LIST + more)
    assert told[0:2] == ["Domain-0", 0]
    assert told[4:10] == list("r-----")
    assert values(guest, xl.LIST + more)[:4] == ["linux", linux, 8, 1]
    alone = rows(machine, "list", *options, "linux")
    assert alone[0] == header
    assert [values(line, xl.LIST + more)[1] for line in alone[1]] == [linux]


def test_list_as_json(machine: Machine, linux: int) -> None:
    (domain,) = json.loads(machine.do("list", "--long", "linux"))
    assert (domain["domid"], domain["config"]["c_info"]["uuid"]) == (linux, UUID)


def test_vm_list(machine: Machine, linux: int) -> None:
    header, (line,) = rows(machine, "vm-list")
    assert header == xl.VM_LIST_HEADER
    assert values(line, xl.VM_LIST) == [UUID, linux, "linux"]


def test_claims(machine: Machine, linux: int) -> None:
    header, lines = rows(machine, "claims")
    assert header == xl.LIST_HEADER + xl.LIST_CLAIM_HEADER
    assert [values(line, xl.LIST + xl.LIST_CLAIM)[-1] for line in lines] == [0, 0]


def test_vcpu_list(machine: Machine, linux: int) -> None:
    header, lines = rows(machine, "vcpu-list")
    assert header == xl.VCPU_LIST_HEADER
    told = [values(line, xl.VCPU_LIST_ONLINE) for line in lines if " - " not in line[:52]]
    assert [linux, 0] in [each[1:3] for each in told]
    assert len(rows(machine, "vcpu-list", "linux")[1]) == 2


def test_uptime(machine: Machine, linux: int) -> None:
    header, (host, guest) = rows(machine, "uptime")
    assert header == xl.UPTIME_HEADER
    assert values(host, xl.UPTIME)[:2] == ["Domain-0", 0]
    name, domid, passed = values(guest, xl.UPTIME)
    assert (name, domid) == ("linux", linux)
    assert re.fullmatch(r" ?\d+:\d\d:\d\d", str(passed))
    told = values(machine.do("uptime", "-s", "linux").rstrip("\n"), xl.UPTIME_SHORT)
    assert told[2:] == ["linux", linux]


def test_what_prints_nothing(machine: Machine, linux: int) -> None:
    domid = str(linux)
    core = machine.folder / "linux.core"
    for command in (
        ("pause", "linux"),
        ("unpause", domid),
        ("rename", domid, "other"),
        ("rename", "other", "linux"),
        ("sysrq", "linux", "s"),
        ("mem-set", "linux", "16m"),
        ("mem-set", "linux", "8192k"),
        ("mem-max", "linux", "33554432b"),
        ("vcpu-set", "linux", "1"),
        ("vcpu-set", "--ignore-host", domid, "2"),
        ("dump-core", "linux", str(core)),
        ("destroy", "linux"),
    ):
        done = machine.call(*command)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), command
    assert core.read_bytes()[:4] == b"\x7fELF"
    assert machine.names() == {}


def test_numbers_and_names(machine: Machine, linux: int) -> None:
    assert machine.do("domid", "linux") == f"{linux}\n"
    assert machine.do("domname", str(linux)) == "linux\n"
    assert machine.do("domname", "0") == "Domain-0\n"
    assert machine.refusal("domname", "linux") == "Invalid domain id."


def test_console(machine: Machine, linux: int) -> None:
    machine.do("destroy", "linux")
    config = machine.folder / "guest.cfg"
    shown = machine.do("create", "-q", "-c", config, 'extra="poweroff"')
    assert shown.splitlines() == ["begun: poweroff"]
    assert "number 0" in machine.refusal("console", "-t", "serial", "linux")


def test_config_update(machine: Machine, linux: int) -> None:
    config = machine.folder / "guest.cfg"
    for file in (config, f"-f={config}"):
        done = machine.call("config-update", str(linux), file, 'name="linux"; memory=12')
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr.splitlines()[1:] == [f"setting dom{linux} configuration"]


def test_shutdown_and_reboot(machine: Machine) -> None:
    for verb in ("shutdown", "reboot"):
        assert machine.refusal(verb) == "You must specify -a or a domain id."
        done = machine.call(verb, "--all", "-F")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Xen host subcommands


def test_debug_keys_and_dmesg(machine: Machine, linux: int) -> None:
    machine.do("dmesg", "--clear")
    assert machine.do("debug-keys", "h") == ""
    lines = machine.do("dmesg", "-c").splitlines()
    assert values(lines[0], xl.DMESG)[-1] == "'h' pressed -> showing installed handlers"
    assert all(values(line, xl.DMESG) for line in lines)
    assert machine.do("dmesg") == ""


def test_info(machine: Machine) -> None:
    # The lines of the example in xl(1) that tell something of this host; test_info.py has all.
    told = dict(line.split(": ", 1) for line in machine.do("info").splitlines())
    for name in ("host", "nr_cpus", "hw_caps", "total_memory", "xen_caps", "xend_config_format"):
        assert f"{name:<23}" in told
    assert machine.do("info", "xen_scheduler") == "credit2\n"


# Virtual devices


@pytest.mark.parametrize(
    "spec",
    (
        ("{}/guest-volume,,hda",),
        ("{}/guest-volume,raw,hda,rw",),
        ("format=raw, vdev=hda, access=rw, target={}/guest-volume",),
        ("format=raw", "vdev=hda", "access=rw", "target={}/guest-volume"),
        ("raw:{}/guest-volume,hda,w",),
        ("{}/image.iso,,hda,cdrom",),
        ("{}/image.iso,,hda,,cdrom",),
        ("{}/image.iso,raw,hda,devtype=cdrom",),
        ("raw:{}/image.iso,hda:cdrom,ro",),
    ),
)
def test_block_devices(machine: Machine, linux: int, spec: tuple[str, ...]) -> None:
    parts = [part.format(machine.folder) for part in spec]
    shown = machine.do("-N", "block-attach", "linux", *parts)
    assert shown.startswith("disk: {\n")
    disk = json.loads(shown.removeprefix("disk: "))
    assert (disk["vdev"], disk["is_cdrom"]) == ("hda", int("cdrom" in "".join(spec)))
    assert rows(machine, "block-list", "linux")[1] == []
    assert machine.do("block-attach", "linux", *parts) == ""
    header, (line,) = rows(machine, "block-list", "linux")
    assert header == xl.BLOCK_LIST_HEADER
    path = f"/local/domain/0/backend/vbd/{linux}/768"
    assert values(line, xl.BLOCK_LIST) == [768, 0, linux, 1, -1, -1, path]
    assert machine.do("block-detach", "linux", "768", "--force") == ""
    assert machine.refusal("block-detach", "linux", "hda") == "Error: Device hda not connected."


@pytest.mark.parametrize(
    "spec",
    (
        (),
        ("mac=00:16:3E:74:34:32",),
        ("mac=00:16:3E:74:3d:76", "rate=10Mb/s"),
        ("mac=00:16:3E:74:3d:76,rate=250KB/s",),
        ("rate=1MB/s@20ms", "mtu=1400"),
    ),
)
def test_network_devices(machine: Machine, linux: int, spec: tuple[str, ...]) -> None:
    spec = ("none", *spec)  # not every host has what a card is connected with else
    shown = machine.do("-N", "network-attach", "linux", *spec)
    assert shown.startswith("vif: {\n")
    json.loads(shown.removeprefix("vif: "))
    assert rows(machine, "network-list", "linux")[1] == []
    assert machine.do("network-attach", "linux", *spec) == ""
    header, (line,) = rows(machine, "network-list", "linux")
    assert header == xl.NETWORK_LIST_HEADER
    devid, backend, mac, *others = values(line, xl.NETWORK_LIST)
    path = f"/local/domain/0/backend/vif/{linux}/0"
    assert (devid, backend, others) == (0, 0, [0, 1, -1, -1, -1, path])
    assert str(mac) in "".join(spec).lower() or "mac" not in "".join(spec)
    assert machine.refusal("network-detach", "linux", "5") == "Unknown device 5."


# Options for all


@pytest.mark.parametrize("option", ("-v", "-f", "-t", "-T"))
def test_global_options(machine: Machine, option: str) -> None:
    assert rows(machine, option, "list")[0] == xl.LIST_HEADER


def test_dry_run_is_refused(machine: Machine, linux: int) -> None:
    for command in (("destroy", "linux"), ("pause", "linux"), ("list",)):
        message = "command does not implement -N (dryrun) option"
        assert machine.refusal("-N", *command) == message
    assert machine.names()[linux].startswith("linux ")
