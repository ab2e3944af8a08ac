# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket: messages as lines, the server and the client."""

from __future__ import annotations

import asyncio
import json
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict

from pyxen.errors import PyxenError
from pyxen.toolstack.broker import messages as broker
from pyxen.toolstack.control import messages, wire
from pyxen.toolstack.control.client import ControlClient, ControlError
from pyxen.toolstack.control.messages import (
    DomainInfo,
    Done,
    Event,
    GetInfo,
    Pause,
    Rename,
    Request,
    SetVcpus,
    Shutdown,
    Subscribe,
    VcpuInfo,
)
from pyxen.toolstack.control.server import ControlServer
from pyxen.toolstack.threads import IoThread

PATIENCE = 20.0
INFO = DomainInfo(
    domid=3,
    name="web",
    uuid="u",
    pid=7,
    started=1.5,
    memory_kib=1024,
    max_memory_kib=2048,
    paused=False,
    shutdown_reason="",
    vcpus=(VcpuInfo(0, True, False, True, 5), VcpuInfo(1, False, False, False, 0)),
)

DISK = {
    "request": "open-disk",
    "config": {"target": "", "image_format": "raw", "vdev": "xvda", "number": 51712},
}
DEVICE = {"kind": "vbd", "devid": 1, "backend_path": ""}
CHANNEL = {"name": "a", "connection": "pty"}


def test_every_request_has_a_name_and_an_answer() -> None:
    assert messages.REQUESTS["set-vcpus"] is SetVcpus
    assert {request.answer for request in messages.REQUESTS.values()} >= {Done, DomainInfo}
    assert len(messages.REQUESTS) >= 17


@pytest.mark.parametrize("request_", (Pause(), Rename("a"), Shutdown("poweroff", 2.5), SetVcpus(3)))
def test_requests_come_back(request_: Request[Any]) -> None:
    line = wire.request_line(request_)
    assert line.endswith(b"\n")
    assert wire.read_request(line) == request_


def test_answers_come_back() -> None:
    content = wire.read_line(wire.answer_line(INFO))
    assert wire.read_message(DomainInfo, content["answer"]) == INFO
    assert (INFO.online, INFO.running, INFO.blocked, INFO.cpu_ns) == (1, False, True, 5)


def test_defaults_and_whole_numbers() -> None:
    assert wire.read_request(b'{"request":"shutdown","action":"reboot"}') == Shutdown("reboot")
    read = wire.read_request(b'{"request":"shutdown","action":"reboot","seconds":3}')
    assert read == Shutdown("reboot", 3.0)


@pytest.mark.parametrize(
    ("line", "message"),
    (
        (b"", "no message: Input data was truncated"),
        (b"{", "no message: Input data was truncated"),
        (b"\xff", "no message: JSON is malformed"),
        (b"[]", "no message: Expected `object`, got `array`"),
        (b"{}", "no such request: None"),
        (b'{"request":["pause"]}', "no such request"),
        (b'{"request":"explode"}', "no such request: 'explode'"),
        (b'{"request":"pause","more":1}', "Pause: Object contains unknown field `more`"),
        (b'{"request":"rename"}', "Rename: Object missing required field `name`"),
        (b'{"request":"rename","name":3}', "Rename: Expected `str`, got `int` - at `$.name`"),
        (b'{"request":"set-vcpus","count":true}', "SetVcpus: Expected `int`, got `bool`"),
        (b'{"request":"set-vcpus","count":1.5}', "Expected `int`, got `float` - at `$.count`"),
    ),
)
def test_what_is_no_request(line: bytes, message: str) -> None:
    with pytest.raises(PyxenError) as refused:
        wire.read_request(line)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "content"),
    (
        (Done, {"more": 1}),
        (Event, {"event": "shutdown", "domid": 1, "more": 1}),
        (messages.DeviceList, {"devices": [{**DEVICE, "more": 1}]}),
        (broker.OpenDisk, {**DISK, "config": {**DISK["config"], "more": 1}}),
        (broker.OpenNic, {"request": "open-nic", "config": {"more": 1}}),
        (broker.OpenChannel, {"request": "open-channel", "config": {**CHANNEL, "more": 1}}),
    ),
)
def test_a_field_that_nobody_knows_is_refused(kind: type[Any], content: Any) -> None:
    with pytest.raises(PyxenError, match="unknown field `more`"):
        wire.read_message(kind, content)


@given(
    st.dictionaries(st.sampled_from(sorted(asdict(INFO))), st.none() | st.integers() | st.text())
    | st.lists(st.integers())
    | st.binary()
)
@settings(deadline=None)
def test_any_line_is_read_or_refused(content: Any) -> None:
    line = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(PyxenError):
        wire.read_request(line)
    with pytest.raises(PyxenError):
        wire.read_message(DomainInfo, content)


class Played:
    """A domain's side that notes requests."""

    def __init__(self) -> None:
        self.requests: list[Request[Any]] = []
        self.hold = threading.Event()
        self.hold.set()

    async def handle(self, request: Request[Any]) -> Any:
        self.requests.append(request)
        while not self.hold.is_set():
            await asyncio.sleep(0.001)
        if isinstance(request, GetInfo):
            return INFO
        if isinstance(request, Rename):
            raise PyxenError(f"name: {request.name} is in use")
        if isinstance(request, SetVcpus):
            raise ZeroDivisionError("ours")
        return Done()


@pytest.fixture
def played() -> Played:
    return Played()


@pytest.fixture
def server(tmp_path: Path, played: Played) -> Iterator[ControlServer]:
    # Longer than a socket's path may be.
    folder = tmp_path / ("f" * 100)
    folder.mkdir()
    with IoThread() as io:
        from pyxen.toolstack.control.client import opened

        with opened(folder) as place:
            with ControlServer(place / "control.sock", io.loop, played.handle) as server:
                server.folder = folder  # type: ignore[attr-defined]
                yield server
            assert list(folder.iterdir()) == []


@pytest.fixture
def client(server: ControlServer) -> Iterator[ControlClient]:
    with ControlClient(server.folder, PATIENCE) as client:  # type: ignore[attr-defined]
        yield client


def test_the_socket_is_its_owners(server: ControlServer) -> None:
    mode = (server.folder / "control.sock").stat().st_mode  # type: ignore[attr-defined]
    assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)


def test_requests_and_answers(client: ControlClient, played: Played) -> None:
    assert client.ask(GetInfo()) == INFO
    assert client.ask(Pause()) == Done()
    assert played.requests == [GetInfo(), Pause()]


def test_refusals_leave_the_connection(
    client: ControlClient, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(PyxenError, match=r"^name: b is in use$"):
        client.ask(Rename("b"))
    with pytest.raises(PyxenError, match=r"^this is a bug in pyxen: ZeroDivisionError: ours$"):
        client.ask(SetVcpus(1))
    assert client.ask(GetInfo()) == INFO
    assert "a request failed" in caplog.text


def test_events_come_between_answers(server: ControlServer, client: ControlClient) -> None:
    server.tell(Event("shutdown", 3, "poweroff"))  # nobody has subscribed
    assert client.ask(Subscribe()) == Done()
    server.tell(Event("shutdown", 3, "reboot"))
    assert client.ask(GetInfo()) == INFO
    server.tell(Event("restarted", 4))
    assert [client.wait_event(), client.wait_event()] == [
        Event("shutdown", 3, "reboot"),
        Event("restarted", 4),
    ]


def test_clients_do_not_wait_for_each_other(
    server: ControlServer, client: ControlClient, played: Played
) -> None:
    played.hold.clear()
    thread = threading.Thread(target=client.ask, args=(Pause(),))
    thread.start()
    with ControlClient(server.folder, 0.05) as other:  # type: ignore[attr-defined]
        with pytest.raises(ControlError, match="does not answer"):
            other.ask(GetInfo())
        played.hold.set()
        thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_line_without_end(server: ControlServer, client: ControlClient) -> None:
    def talk() -> None:
        for _ in range(64):
            client._send(b"x" * (messages.LINE_LIMIT // 16))
        client.ask(GetInfo())

    with pytest.raises(PyxenError):
        talk()
    with ControlClient(server.folder, PATIENCE) as other:  # type: ignore[attr-defined]
        assert other.ask(GetInfo()) == INFO


def test_the_end_of_the_process_ends_what_waits(tmp_path: Path, played: Played) -> None:
    ended = threading.Event()

    def wait() -> None:
        with ControlClient(tmp_path, PATIENCE) as client:
            client.ask(Subscribe())
            waiting.set()
            with pytest.raises(ControlError, match="its process has ended"):
                client.wait_event()
            ended.set()

    waiting = threading.Event()
    with (
        IoThread() as io,
        ControlServer(tmp_path / "control.sock", io.loop, played.handle),
    ):
        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(PATIENCE)
    assert ended.wait(PATIENCE)
    thread.join()


def test_nobody_is_there(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match=f"domain {tmp_path.name}: No such file"):
        ControlClient(tmp_path)
    with pytest.raises(ControlError, match="domain none: No such file"):
        ControlClient(tmp_path / "none")
