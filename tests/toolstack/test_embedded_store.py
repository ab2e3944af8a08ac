# SPDX-License-Identifier: GPL-2.0-or-later
"""The store of a run: a domain's nodes and ring, devices that come and go, and what is left."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from pyxen.abi import io_xs_wire as wire
from pyxen.abi.grant_table import GNTTAB_RESERVED_XENSTORE
from pyxen.backends.doors import Doors
from pyxen.backends.opened import Opened
from pyxen.backends.xenbus import Backend
from pyxen.errors import PyxenError
from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.events import BACK_END_DOMAIN
from pyxen.hypervisor.grant_access import GrantAccess
from pyxen.hypervisor.page_flags import PAGE_SIZE
from pyxen.testing import FakeEngine
from pyxen.toolstack.devices import Factory
from pyxen.toolstack.devices.channel import parse_channel
from pyxen.toolstack.devices.disk import parse_disk
from pyxen.toolstack.devices.live import CHANNEL, DISK, NIC, Devices
from pyxen.toolstack.devices.nic import parse_nic
from pyxen.toolstack.domain_store import DomainNodes
from pyxen.toolstack.store import EmbeddedStore
from pyxen.xenstore import StoreError

STORE_PFN = 5
XVDA = 51712
CHANNELS = ("name=a,connection=pty", "name=b,connection=socket,path=/run/b,limit=4096")


class Passive(Backend):
    """Does nothing when connected."""

    kind = "vbd"
    closed = False

    def advertise(self) -> dict[str, str]:
        return {"feature-nothing": "1"}

    def connect(self) -> None:
        self.write({"sectors": "8"})

    def disconnect(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def statistics(self) -> dict[str, int]:
        return {"requests": 7}


def make_passive(
    doors: Doors, backend_path: str, frontend_path: str, config: object, opened: Opened
) -> Backend:
    return Passive(doors, backend_path, frontend_path)


PASSIVE = Factory(lambda config, domid: Opened(()), make_passive)


class Run:
    """One domain after the other in one store."""

    def __init__(self) -> None:
        self.store = EmbeddedStore()
        self.domid = 0

    def start(self) -> None:
        self.domid += 1
        self.engine = FakeEngine(128, 1)
        self.domain = Domain(self.engine, 64, domid=self.domid)
        self.port = self.domain.events.alloc_unbound(BACK_END_DOMAIN)
        self.mfn = self.domain.memory.p2m[STORE_PFN]
        self.domain.grants.seed(GNTTAB_RESERVED_XENSTORE, self.mfn)
        self.grants = GrantAccess(self.domain.grants, self.domain.forget_code)
        nodes = DomainNodes(
            domid=self.domid,
            name="web",
            uuid=str(self.domain.uuid),
            memory=1024,
            max_memory=2048,
            vcpus=2,
            max_vcpus=3,
            store_port=self.port,
            store_mfn=self.mfn,
            console_port=2,
            console_mfn=77,
            image={"kernel": "/vmlinuz"},
        )
        client = self.store.add(self.domain, self.grants, nodes)
        doors = Doors(
            domid=self.domid,
            grants=self.grants,
            bind=lambda port, notify: self.domain.events.bind_back_end(port),
            store=client,
            post=self.domain.post,
            call_later=self.domain.call_later,
            executor=None,  # type: ignore[arg-type]
            loop=None,  # type: ignore[arg-type]
        )
        factories = dict.fromkeys((DISK, NIC, CHANNEL), PASSIVE)
        self.devices = Devices(doors, self.store.client, "web", factories)

    def end(self) -> None:
        self.store.shut_down(self.domid)
        self.devices.close()
        self.store.remove(self.domid)
        assert not any(self.domain.grants.pins)
        assert self.domain.events.back_end_ports == {}
        self.domain.close()
        self.engine.close()

    @property
    def path(self) -> str:
        return f"/local/domain/{self.domid}"

    def read(self, path: str) -> str:
        return self.store.client.read(path).decode()

    def request(self, kind: int, payload: bytes, transaction: int = 0) -> tuple[int, bytes]:
        """Make a request by the ring, as the guest's kernel does; returns type and payload."""
        start = self.mfn * PAGE_SIZE
        page = self.domain.memory.bytes[start : start + PAGE_SIZE]
        offsets = wire.XENSTORE_DOMAIN_INTERFACE.offsets
        message = struct.pack("<4I", kind, 1, transaction, len(payload)) + payload
        (prod,) = struct.unpack_from("<I", page, offsets["req_prod"])
        for position, byte in enumerate(message, prod):
            page[position % 1024] = byte
        struct.pack_into("<I", page, offsets["req_prod"], prod + len(message))
        self.domain.events.send(self.port)
        cons, end = struct.unpack_from("<2I", page, offsets["rsp_cons"])
        ring = offsets["rsp"]
        answer = bytes(page[ring + position % 1024] for position in range(cons, end))
        struct.pack_into("<I", page, offsets["rsp_cons"], end)
        return struct.unpack_from("<I", answer)[0], answer[16:]

    def attend(self) -> None:
        """Do what was posted."""
        while self.domain._posted:
            self.domain._posted.popleft()()

    def enter(self, kind: str, devid: int, state: int) -> None:
        """The front end writes its state, and the back end gets time."""
        payload = f"device/{kind}/{devid}/state\0{state}".encode()
        assert self.request(wire.XS_WRITE, payload) == (wire.XS_WRITE, b"OK\0")
        self.attend()


@pytest.fixture
def run() -> Iterator[Run]:
    run = Run()
    run.start()
    run.attend()
    yield run
    run.end()


def test_the_nodes_of_a_domain(run: Run) -> None:
    told = {
        "name": "web",
        "domid": "1",
        "vm": f"/vm/{run.domain.uuid}",
        "memory/target": "1024",
        "memory/static-max": "2048",
        "cpu/0/availability": "online",
        "cpu/1/availability": "online",
        "cpu/2/availability": "offline",
        "store/port": str(run.port),
        "store/ring-ref": str(run.mfn),
        "console/port": "2",
        "console/ring-ref": "77",
        "console/limit": "1048576",
        "control/platform-feature-xs_reset_watches": "1",
        "control/shutdown": "",
    }
    assert {name: run.read(f"{run.path}/{name}") for name in told} == told
    assert run.read(f"/vm/{run.domain.uuid}/image/kernel") == "/vmlinuz"


def test_the_guest_reads_its_nodes_by_its_ring(run: Run) -> None:
    assert run.request(wire.XS_READ, b"name\0") == (wire.XS_READ, b"web")
    assert run.request(wire.XS_READ, b"/vm/%s/name\0" % str(run.domain.uuid).encode())[1] == b"web"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("name", False),
        ("memory/target", False),
        ("device/vbd/1", False),
        ("control/platform-feature-xs_reset_watches", False),
        ("console/ring-ref", False),
        ("control/shutdown", True),
        ("control/feature-suspend", True),
        ("data/x", True),
        ("attr/a/b", True),
        ("error/device", True),
        ("/local/domain/0/backend", False),
        ("/libxl/1/type", False),
        ("/x", False),
    ],
)
def test_what_the_guest_may_write(run: Run, path: str, allowed: bool) -> None:
    answer = run.request(wire.XS_WRITE, path.encode() + b"\0value")
    assert answer == ((wire.XS_WRITE, b"OK\0") if allowed else (wire.XS_ERROR, b"EACCES\0"))


def test_a_disk_comes_and_goes(run: Run) -> None:
    device = run.devices.attach_disk(parse_disk("/a,raw,xvda"))
    back, front = device.backend_path, device.frontend_path
    assert (back, front) == (
        "/local/domain/0/backend/vbd/1/51712",
        "/local/domain/1/device/vbd/51712",
    )
    assert run.read(f"{back}/frontend") == front
    assert run.read(f"{front}/backend") == back
    assert run.read(f"{back}/state") == "2"
    assert run.request(wire.XS_READ, front.encode() + b"/virtual-device\0")[1] == b"51712"
    assert run.request(wire.XS_READ, back.encode() + b"/feature-nothing\0")[1] == b"1"
    assert run.request(wire.XS_WRITE, back.encode() + b"/state\x004")[1] == b"EACCES\0"
    run.enter(DISK, XVDA, 4)
    assert run.read(f"{back}/state") == "4"
    assert run.devices.statistics() == {"vbd-51712": {"requests": 7}}
    done: list[bool] = []
    run.devices.detach(DISK, XVDA, done=lambda: done.append(True))
    assert (run.read(f"{back}/state"), run.read(f"{back}/online")) == ("5", "0")
    run.enter(DISK, XVDA, 5)
    assert not done
    run.enter(DISK, XVDA, 6)
    assert done
    assert run.devices.all() == []
    for path in (front, back, device.libxl_path):
        with pytest.raises(StoreError, match="ENOENT"):
            run.read(path)


def test_a_device_that_nobody_serves_goes_at_once(run: Run) -> None:
    run.devices.attach_disk(parse_disk("/a,raw,xvda"))
    done: list[bool] = []
    run.devices.detach(DISK, XVDA, done=lambda: done.append(True))
    assert done


def test_a_number_is_used_once(run: Run) -> None:
    run.devices.attach_disk(parse_disk("/a,raw,xvda"))
    with pytest.raises(PyxenError, match="disk 51712: the domain has one of this number"):
        run.devices.attach_disk(parse_disk("/b,raw,d0p0"))
    with pytest.raises(PyxenError, match="disk 51728: the domain has none of this number"):
        run.devices.detach(DISK, 51728)


def test_cards_are_numbered_and_get_addresses(run: Run) -> None:
    cards = [run.devices.attach_nic(parse_nic(spec)) for spec in ("", "devid=2", "", "none")]
    assert [card.devid for card in cards] == [0, 2, 1, 3]
    macs = {run.read(f"{card.frontend_path}/mac") for card in cards}
    assert len(macs) == 4
    run.devices.detach(NIC, 1)
    assert run.devices.attach_nic(parse_nic("")).devid == 1


def test_a_channel_has_the_nodes_of_libxl(run: Run) -> None:
    first, second = (run.devices.attach_channel(parse_channel(spec)) for spec in CHANNELS)
    assert (first.devid, second.devid) == (1, 2)
    front, back = second.frontend_path, second.backend_path
    assert (front, back) == (
        "/local/domain/1/device/console/2",
        "/local/domain/0/backend/console/1/2",
    )
    told = {
        "backend": back,
        "backend-id": "0",
        "protocol": "vt100",
        "state": "1",
        "name": "b",
        "limit": "4096",
        "type": "ioemu",
        "output": "chardev:libxl-channel2",
        "tty": "",
    }
    assert sorted(run.store.client.directory(front)) == sorted(told)
    assert {name: run.read(f"{front}/{name}") for name in told} == told
    assert run.read(f"{back}/connection") == "socket"
    assert run.read(f"{back}/path") == "/run/b"
    # The guest may write what it has to, and no more.
    for name in ("state", "ring-ref", "port"):
        answer = run.request(wire.XS_WRITE, f"{front}/{name}\x001".encode())
        assert answer == (wire.XS_WRITE, b"OK\0")
    for name in ("name", "limit", "type", "output", "tty"):
        answer = run.request(wire.XS_WRITE, f"{front}/{name}\x001".encode())
        assert answer == (wire.XS_ERROR, b"EACCES\0")


def test_the_mtu_of_a_card_is_not_the_guests(run: Run) -> None:
    path = run.devices.attach_nic(parse_nic("mtu=9000")).frontend_path
    assert run.read(f"{path}/mtu") == "9000"
    assert run.request(wire.XS_WRITE, f"{path}/mtu\x001".encode())[1] == b"EACCES\0"


def test_a_kind_without_a_back_end_is_told(run: Run) -> None:
    devices = Devices(None, run.store.client, "web", {})  # type: ignore[arg-type]
    with pytest.raises(PyxenError, match="disk: pyxen has no back end for it"):
        devices.attach_disk(parse_disk("/a,raw,xvda"))


def test_the_store_stays_and_the_domain_goes() -> None:
    run = Run()
    heard: list[str] = []
    for name in ("@introduceDomain", "@releaseDomain"):
        run.store.client.watch(name, heard.append)
    run.store.client.write("/tool/mine", "stays")
    before = heard[:]
    for domid in (1, 2, 3):
        run.start()
        device = run.devices.attach_disk(parse_disk("/a,raw,xvda"))
        run.enter(DISK, XVDA, 4)
        run.request(wire.XS_WRITE, b"data/mine\0goes")
        run.end()
        assert isinstance(device.backend, Passive)
        assert device.backend.closed
        assert heard[len(before) :] == ["@introduceDomain", "@releaseDomain", "@releaseDomain"]
        del heard[len(before) :]
        assert run.read("/tool/mine") == "stays"
        for path in (run.path, f"/libxl/{domid}", f"/local/domain/0/backend/vbd/{domid}"):
            assert not run.store.client.exists(path)
        assert run.store.client.directory("/vm") == []


def test_a_guest_that_breaks_its_ring_is_not_served_and_leaves_nothing(run: Run) -> None:
    run.devices.attach_disk(parse_disk("/a,raw,xvda"))
    start = run.mfn * PAGE_SIZE
    offset = wire.XENSTORE_DOMAIN_INTERFACE.offsets["req_prod"]
    struct.pack_into("<I", run.domain.memory.bytes, start + offset, 5000)
    run.domain.events.send(run.port)
    assert run.read(f"{run.path}/name") == "web"
