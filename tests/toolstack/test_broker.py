# SPDX-License-Identifier: GPL-2.0-or-later
"""What a broker does for a domain's process, and what it refuses."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from pyxen.errors import PyxenError
from pyxen.toolstack.broker import messages, wire
from pyxen.toolstack.broker.client import Broker, BrokerGone
from pyxen.toolstack.broker.process import BrokerProcess
from pyxen.toolstack.config import DomainConfig, to_json
from pyxen.toolstack.control.client import ControlClient
from pyxen.toolstack.control.messages import AttachDisk, AttachNic, DumpCore, Request, UpdateConfig
from pyxen.toolstack.control.wire import request_line
from pyxen.toolstack.devices.disk import parse_disk
from pyxen.toolstack.devices.nic import parse_nic
from pyxen.toolstack.registry import Registry

NOT_PERMITTED = "the domain's owner has not permitted that"
UUID = "3f0e5e2c-1b7f-4c3a-9d45-0a1b2c3d4e5f"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Not pytest's folder, whose name may be longer than a socket's path can be.
    with tempfile.TemporaryDirectory(prefix="pyxen-test-") as name:
        folder = Path(name)
        monkeypatch.setenv("PYXEN_RUN", f"{name}/run")
        monkeypatch.setenv("XDG_STATE_HOME", f"{name}/state")
        for each in ("disk", "other", "ramdisk", "kernel"):
            (folder / each).write_bytes(bytes(1 << 20))
        yield folder


@pytest.fixture
def config(folder: Path) -> DomainConfig:
    return DomainConfig(
        kernel=folder / "kernel",
        ramdisk=folder / "ramdisk",
        name="web",
        uuid=UUID,
        memory_mib=8,
        disks=(parse_disk(f"{folder}/disk,raw,xvda"),),
        nics=(replace(parse_nic("none"), devid=0, mac="00:16:3e:00:00:01"),),
    )


@pytest.fixture
def broker(config: DomainConfig) -> Iterator[Broker]:
    """That of a domain whose process is the test's."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=BrokerProcess(config, theirs, os.getpid()).serve)
    thread.start()
    broker = Broker(ours)
    broker.join()
    yield broker
    ours.close()
    thread.join(20)
    assert not thread.is_alive()
    theirs.close()
    os.close(broker.folder)


def permit(request: Request[object]) -> str:
    """As a tool of the owner's does, which is another process; returns what the broker answers."""
    program = (
        "import sys; from pyxen.toolstack.control.client import connect\n"
        "from pathlib import Path\n"
        "with connect(Path(sys.argv[1]), 'broker.sock', 20) as link:\n"
        "    link.sendall(sys.argv[2].encode())\n"
        "    print(link.recv(4096).decode())\n"
    )
    place = Registry().find("web").folder
    command = [sys.executable, "-c", program, place, request_line(request).decode()]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_place_in_the_registry(broker: Broker, config: DomainConfig) -> None:
    entry = Registry().find("web")
    assert (entry.alive, entry.record) == (True, broker.record)
    assert (entry.record.pid, entry.record.uuid) == (os.getpid(), UUID)
    assert broker.renumber() == entry.record.domid + 1
    broker.rename("mail")
    broker.configure(replace(config, name="mail"))
    assert Registry().find("mail").record == broker.record
    with pytest.raises(PyxenError, match="expected up to 80 letters"):
        broker.rename("../mail")
    broker.leave()
    assert Registry().entries() == []


def test_what_the_configuration_names_is_opened(
    broker: Broker, config: DomainConfig, folder: Path
) -> None:
    opened = broker.open_device("vbd", config.disks[0])
    (file,) = opened.files
    assert os.readlink(f"/proc/self/fd/{file}") == f"{folder}/disk"
    with pytest.raises(PyxenError, match="in use"):
        broker.open_device("vbd", config.disks[0])
    opened.close()
    broker.open_device("vbd", config.disks[0]).close()
    broker.open_device("vif", replace(config.nics[0], devid=3)).close()
    with broker.open_file(folder / "ramdisk") as ramdisk:
        assert len(ramdisk.read()) == 1 << 20


def test_nothing_else_is_opened(broker: Broker, config: DomainConfig, folder: Path) -> None:
    (disk,) = config.disks
    for other in (
        replace(disk, target=f"{folder}/other"),
        replace(disk, target="/etc/passwd", readonly=True),
        replace(disk, image_format="qcow2"),
    ):
        with pytest.raises(PyxenError, match=NOT_PERMITTED):
            broker.open_device("vbd", other)
    for spec in ("user", "switch=lan", "tap=tap0", f"none,pcap={folder}/card.pcap"):
        with pytest.raises(PyxenError, match=NOT_PERMITTED):
            broker.open_device("vif", parse_nic(spec))
    with pytest.raises(PyxenError, match=NOT_PERMITTED):
        broker._ask(messages.OpenCore(f"{folder}/core"))
    with pytest.raises(PyxenError, match=NOT_PERMITTED):
        broker.open_file(folder / "other")


def test_a_configuration_names_nothing_else(
    broker: Broker, config: DomainConfig, folder: Path
) -> None:
    broker.configure(replace(config, name="mail", disks=()))
    for other in (
        replace(config, kernel=Path("/etc/shadow")),
        replace(config, ramdisk=None),
        replace(config, memory_mib=4096),
        replace(config, disks=(replace(config.disks[0], target="/dev/sda"),)),
        replace(config, nics=(parse_nic("user"),)),
    ):
        with pytest.raises(PyxenError, match=NOT_PERMITTED):
            broker.configure(other)
        with pytest.raises(PyxenError, match=NOT_PERMITTED):
            broker.spawn(other)


def test_what_the_owner_permits(broker: Broker, config: DomainConfig, folder: Path) -> None:
    spec = f"{folder}/other,raw,xvdb"
    assert permit(AttachDisk(spec)) == '{"answer":{}}'
    disk = parse_disk(spec)
    broker.open_device("vbd", disk).close()
    broker.configure(replace(config, disks=(*config.disks, disk)))
    assert permit(AttachNic(f"none,pcap={folder}/card.pcap")) == '{"answer":{}}'
    broker.open_device("vif", parse_nic(f"none,pcap={folder}/card.pcap")).close()
    core = f"{folder}/core"
    assert permit(DumpCore(core)) == '{"answer":{}}'
    opened, (file,) = broker._ask(messages.OpenCore(core))
    with pytest.raises(PyxenError, match=NOT_PERMITTED):  # once is not for ever
        broker._ask(messages.OpenCore(core))
    os.write(file, b"core")
    os.close(file)
    broker._ask(messages.FinishCore(opened.number, True))
    assert (folder / "core").read_bytes() == b"core"
    update = replace(config, kernel=folder / "other", memory_mib=16)
    assert permit(UpdateConfig(to_json(update))) == '{"answer":{}}'
    broker.configure(update)
    broker.open_file(folder / "other").close()
    assert "no number of requests" in permit(AttachDisk(f"{spec},iops=x"))
    assert "no such request" in permit(messages.Leave())


def test_the_domain_itself_permits_nothing(broker: Broker, folder: Path) -> None:
    """The test's process is the domain's."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{broker.folder}/control.sock")
        listener.listen()
        with (
            ControlClient(Registry().find("web").folder, 20) as client,
            pytest.raises(PyxenError, match="cannot permit itself"),
        ):
            client.ask(AttachDisk(f"{folder}/other,raw,xvdb"))
    with pytest.raises(PyxenError, match=NOT_PERMITTED):
        broker.open_device("vbd", parse_disk(f"{folder}/other,raw,xvdb"))


def test_a_broker_that_has_ended(config: DomainConfig) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    broker = Broker(ours)
    for _ in range(2):
        with pytest.raises(BrokerGone, match="broker has ended"):
            broker.join()
    ours.close()


def test_errors_of_the_system_stay_what_they_are(broker: Broker, folder: Path) -> None:
    (folder / "ramdisk").unlink()
    with pytest.raises(FileNotFoundError) as error:
        broker.open_file(folder / "ramdisk")
    assert error.value.filename == f"{folder}/ramdisk"


def test_many_files_travel_with_one_line() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        files = [os.open(os.devnull, os.O_RDONLY) for _ in range(300)]
        wire.send(ours, b'{"a":1}\n', files)
        line, received = wire.receive(theirs)
        assert line.strip() == b'{"a":1}'
        assert len(received) == 300
        assert not any(os.get_inheritable(file) for file in received)
        for file in files + received:
            os.close(file)
        ours.close()
        with pytest.raises(EOFError):
            wire.receive(theirs)
