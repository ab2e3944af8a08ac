# SPDX-License-Identifier: GPL-2.0-or-later
"""The broker itself. It has one thread, does one request after the other, and ends with the
domain's process."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, Final, NoReturn
from uuid import UUID

from msgspec.structs import replace

from pyxen.backends.console import sockets
from pyxen.backends.console.log_file import open_log
from pyxen.backends.opened import Opened
from pyxen.errors import PyxenError
from pyxen.toolstack.broker import messages, wire
from pyxen.toolstack.broker.client import Broker
from pyxen.toolstack.broker.messages import OpenedDevice, OpenedFile
from pyxen.toolstack.config import DomainConfig, from_json, to_json
from pyxen.toolstack.config.reader import check_name
from pyxen.toolstack.console_log import default_console_log
from pyxen.toolstack.control.messages import (
    BROKER_SOCKET,
    PERMITS,
    AttachDisk,
    AttachNic,
    Done,
    DumpCore,
    Request,
    UpdateConfig,
)
from pyxen.toolstack.control.wire import answer_line, error_line, read_request
from pyxen.toolstack.core_dump import CoreFile
from pyxen.toolstack.create import spawn
from pyxen.toolstack.devices import FACTORIES
from pyxen.toolstack.devices.disk import parse_disk
from pyxen.toolstack.devices.nic import NicConfig, parse_nic
from pyxen.toolstack.domain_store import places_of
from pyxen.toolstack.folders import log_folder, make_private
from pyxen.toolstack.registry import Membership, Record, Registry
from pyxen.xenstore.address import connect
from pyxen.xenstore.confinement import confine
from pyxen.xenstore.error import StoreError
from pyxen.xenstore.start import ensure_xenstored

log = logging.getLogger("pyxen")

_PATIENCE: Final = 10.0
"""So many seconds the owner's tool may take to say what it wants, and the store to answer."""
_PEER: Final = struct.Struct("3i")
_FREE: Final = (
    *("name", "uuid", "disks", "nics"),
    *("weight", "cap", "hard_affinity", "soft_affinity"),
)
"""What of its configuration a domain's process may change; the devices are looked at one by one."""


def start_broker(config: DomainConfig, foreign: Sequence[int]) -> Broker:
    """Fork the broker of this process, which has one thread yet. ``foreign``: descriptors in which
    the broker has no part."""
    # What both will need is loaded once.
    if config.disks:
        import_module("pyxen.toolstack.devices.vbd")
    if config.nics:
        import_module("pyxen.toolstack.devices.vif")
    ours, theirs = socket.socketpair()
    domain = os.getpid()
    if not os.fork():
        _live(config, theirs, domain, [ours.detach(), *foreign])
    theirs.close()
    return Broker(ours)


def _live(
    config: DomainConfig, connection: socket.socket, domain: int, foreign: Sequence[int]
) -> NoReturn:
    status = 1
    try:
        _close(foreign)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, _nothing)  # not ignored: programs would inherit that
        BrokerProcess(config, connection, domain).serve()
        status = 0
    except BaseException:
        log.exception("the broker has failed")
    finally:
        os._exit(status)


def _nothing(number: int, frame: Any) -> None:
    """The domain's process ends when it has to, and the broker with it."""


class BrokerProcess:
    """See the package. ``domain`` is the process that it is for."""

    def __init__(self, config: DomainConfig, connection: socket.socket, domain: int) -> None:
        self._config = config
        self._connection = connection
        self._domain = domain
        self._disks = list(config.disks)
        self._nics = [_plain(nic) for nic in config.nics]
        self._updates: list[DomainConfig] = []
        self._cores: list[str] = []
        self._console_log = config.console_log or default_console_log(config.name)
        self._opened: dict[int, Opened] = {}
        self._core_files: dict[int, CoreFile] = {}
        self._numbers = count()
        self._spawned = False
        self._registry = Registry()
        self._membership: Membership
        self._listener: socket.socket | None = None
        self._handlers: dict[type[Request[Any]], Callable[[Any], tuple[Any, list[int]]]] = {
            messages.Join: self._join,
            messages.Renumber: self._renumber,
            messages.Rename: self._rename,
            messages.Configure: self._configure,
            messages.Spawn: self._spawn,
            messages.Leave: self._leave,
            messages.ConnectStore: self._connect_store,
            messages.OpenDisk: self._open_disk,
            messages.OpenNic: self._open_nic,
            messages.OpenChannel: self._open_channel,
            messages.Release: self._release,
            messages.OpenConsoleLog: self._open_console_log,
            messages.OpenBuildFile: self._open_build_file,
            messages.OpenCore: self._open_core,
            messages.FinishCore: self._finish_core,
        }

    def serve(self) -> None:
        """Return when the domain's process has ended, and nothing of its devices is left."""
        try:
            while True:
                if self._wait():
                    self._answer()
                else:
                    self._hear_owner()
        except (EOFError, ConnectionError):
            for opened in self._opened.values():
                opened.release()
            for core in self._core_files.values():
                core.finish(whole=False)
        finally:
            if self._listener is not None:
                self._listener.close()

    def _wait(self) -> bool:
        """Whether it is the domain's process that has something to say."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        if self._listener is not None:
            poll.register(self._listener, select.POLLIN)
        ready = [file for file, _ in poll.poll()]
        return self._connection.fileno() in ready

    def _answer(self) -> None:
        """Do one request of the domain's process. The files that go with the answer are its own
        then."""
        line, files = wire.receive(self._connection)
        _close(files)
        files = []
        try:
            request = read_request(line, messages.REQUESTS)
            answer, files = self._handlers[type(request)](request)
            said = answer_line(answer)
        except PyxenError as error:
            said = error_line(str(error))
        except OSError as error:
            said = error_line(str(error), error)
        wire.send(self._connection, said, files)
        _close(files)

    # What its owner permits

    def _hear_owner(self) -> None:
        """A request of one of the owner's tools, that is about to be made to the domain's process.
        That process itself may permit nothing."""
        assert self._listener is not None
        with suppress(OSError, EOFError):
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(_PATIENCE)
                line, files = wire.receive(connection)
                _close(files)
                try:
                    if _pid_of(connection) == self._domain:
                        raise PyxenError("a domain's process cannot permit itself anything")
                    self._permit(read_request(line, PERMITS))
                    said = answer_line(Done())
                except PyxenError as error:
                    said = error_line(str(error))
                connection.sendall(said)

    def _permit(self, request: Request[Any]) -> None:
        if isinstance(request, AttachDisk):
            self._disks.append(parse_disk(request.spec))
        elif isinstance(request, AttachNic):
            self._nics.append(_plain(parse_nic(request.spec)))
        elif isinstance(request, DumpCore):
            self._cores.append(request.path)
        elif isinstance(request, UpdateConfig):
            config = from_json(request.config)
            self._updates.append(config)
            self._disks += config.disks
            self._nics += map(_plain, config.nics)

    # The domain's place in the registry

    def _join(self, request: messages.Join) -> tuple[Record, list[int]]:
        self._membership = self._registry.add(self._record, to_json(self._config))
        folder = os.open(self._membership.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._listener = sockets.listen(Path(f"/proc/self/fd/{folder}/{BROKER_SOCKET}"))
        return self._membership.record, [self._membership.dup_lock(), folder]

    def _record(self, domid: int) -> Record:
        return Record(
            domid=domid,
            name=self._config.name,
            uuid=self._config.uuid,
            pid=self._domain,
            started=time.time(),
            log=str(log_folder() / f"{self._config.name}.log"),
            memory_mib=self._config.memory_mib,
            vcpus=self._config.vcpus,
        )

    def _renumber(self, request: messages.Renumber) -> tuple[Record, list[int]]:
        config = self._config
        self._membership.renumber(time.time(), config.memory_mib, config.vcpus)
        return self._membership.record, []

    def _rename(self, request: messages.Rename) -> tuple[Record, list[int]]:
        check_name(request.name)
        self._membership.rename(request.name, request.uuid)
        return self._membership.record, []

    def _configure(self, request: messages.Configure) -> tuple[Done, list[int]]:
        config = self._checked(request.config)
        self._membership.save_config(to_json(config))
        self._config = config
        return Done(), []

    def _spawn(self, request: messages.Spawn) -> tuple[Done, list[int]]:
        config = self._checked(request.config)
        _check(not self._spawned, "another domain")
        self._spawned = True
        spawn(config, restarted=time.monotonic())
        return Done(), []

    def _checked(self, shown: dict[str, Any]) -> DomainConfig:
        """A configuration with nothing in it that was not permitted."""
        config = from_json(shown)
        check_name(config.name)
        for disk in config.disks:
            _check(disk in self._disks, f"disk {disk.vdev}")
        for nic in config.nics:
            _check(_plain(nic) in self._nics, f"network card {nic.devid}")
        permitted = (self._config, *self._updates)
        _check(any(_fits(config, each) for each in permitted), "such a configuration")
        return config

    def _leave(self, request: messages.Leave) -> tuple[Done, list[int]]:
        self._membership.leave()
        return Done(), []

    # Opening

    def _connect_store(self, request: messages.ConnectStore) -> tuple[Done, list[int]]:
        path = self._registry.folder / "xenstored.sock"
        if request.start:
            connection = ensure_xenstored(path, make_private(log_folder()) / "xenstored.log")
        else:
            connection = connect(path)
        domid, uuid = self._membership.record.domid, str(UUID(self._config.uuid))
        try:
            confine(connection, domid, places_of(domid, uuid), _PATIENCE)
        except StoreError as error:
            connection.close()
            raise PyxenError(f"xenstored: {error}") from None
        return Done(), [connection.detach()]

    def _open_disk(self, request: messages.OpenDisk) -> tuple[OpenedDevice, list[int]]:
        _check(request.config in self._disks, f"disk {request.config.vdev}")
        return self._open("vbd", request.config)

    def _open_nic(self, request: messages.OpenNic) -> tuple[OpenedDevice, list[int]]:
        _check(_plain(request.config) in self._nics, f"network card {request.config.devid}")
        return self._open("vif", request.config)

    def _open_channel(self, request: messages.OpenChannel) -> tuple[OpenedDevice, list[int]]:
        channels = [replace(each, devid=None) for each in self._config.channels]
        permitted = replace(request.config, devid=None) in channels
        _check(permitted, f"channel {request.config.name}")
        return self._open("console", request.config)

    def _open(self, kind: str, config: Any) -> tuple[OpenedDevice, list[int]]:
        opened = FACTORIES[kind].open(config, self._membership.record.domid)
        number = next(self._numbers)
        self._opened[number] = opened
        return OpenedDevice(number, opened.pid, opened.facts), list(opened.files)

    def _release(self, request: messages.Release) -> tuple[Done, list[int]]:
        opened = self._opened.pop(request.number, None)
        if opened is not None:
            opened.release()
        return Done(), []

    def _open_console_log(self, request: messages.OpenConsoleLog) -> tuple[Done, list[int]]:
        config = self._console_log
        return Done(), [open_log(config.path, config.kept if request.rotate else None)]

    def _open_build_file(self, request: messages.OpenBuildFile) -> tuple[Done, list[int]]:
        config = self._config
        permitted = (config.kernel, config.ramdisk, config.system_map)
        _check(Path(request.path) in permitted, request.path)
        return Done(), [os.open(request.path, os.O_RDONLY | os.O_CLOEXEC)]

    def _open_core(self, request: messages.OpenCore) -> tuple[OpenedFile, list[int]]:
        if request.path:
            _check(request.path in self._cores, request.path)
            self._cores.remove(request.path)
            core = CoreFile(Path(request.path))
        else:
            name = self._membership.record.name
            core = CoreFile(make_private(log_folder() / "dump") / f"{name}.core")
        number = next(self._numbers)
        self._core_files[number] = core
        return OpenedFile(number), [core.file]

    def _finish_core(self, request: messages.FinishCore) -> tuple[Done, list[int]]:
        core = self._core_files.pop(request.number, None)
        if core is not None:
            core.finish(request.whole)
        return Done(), []


def _close(files: Sequence[int]) -> None:
    for file in files:
        os.close(file)


def _check(permitted: bool, what: str) -> None:
    if not permitted:
        raise PyxenError(f"{what}: the domain's owner has not permitted that")


def _fits(config: DomainConfig, permitted: DomainConfig) -> bool:
    """Whether they differ in nothing but what is free, or was looked at."""
    return replace(config, **{name: getattr(permitted, name) for name in _FREE}) == permitted


def _plain(nic: NicConfig) -> NicConfig:
    """A card without what it gets when it is added."""
    return replace(nic, devid=None, mac="")


def _pid_of(connection: socket.socket) -> int:
    """The process at the other end."""
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return int(_PEER.unpack(peer)[0])
