# SPDX-License-Identifier: GPL-2.0-or-later
"""What a domain's process asks of its broker. Open files come along with the answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pyxen.toolstack.control.messages import Done, Request, wire_name
from pyxen.toolstack.devices.channel import ChannelConfig
from pyxen.toolstack.devices.disk import DiskConfig
from pyxen.toolstack.devices.nic import NicConfig
from pyxen.toolstack.registry import Record

# Answers


@dataclass(frozen=True)
class OpenedFile:
    """What was opened has this number from now on."""

    number: int


@dataclass(frozen=True)
class OpenedDevice:
    """As ``backends.opened.Opened`` has it."""

    number: int
    pid: int
    facts: dict[str, Any]


# Requests


@dataclass(frozen=True)
class Join(Request[Record]):
    """Give the domain a number and a folder: the folder's lock, and the folder."""

    answer = Record


@dataclass(frozen=True)
class Renumber(Request[Record]):
    """It begins anew, under the next number."""

    answer = Record


@dataclass(frozen=True)
class Rename(Request[Record]):
    name: str
    uuid: str | None
    answer = Record


@dataclass(frozen=True)
class Configure(Request[Done]):
    """What a restart is to go by, in libxl's shape."""

    config: dict[str, Any]
    answer = Done


@dataclass(frozen=True)
class Spawn(Request[Done]):
    """Start a domain of this configuration in another process, in place of this one."""

    config: dict[str, Any]
    answer = Done


@dataclass(frozen=True)
class Leave(Request[Done]):
    """The domain is no more."""

    answer = Done


@dataclass(frozen=True)
class ConnectStore(Request[Done]):
    """A connection with the host's xenstore, which is started, if that is wanted and need be."""

    start: bool
    answer = Done


@dataclass(frozen=True)
class OpenDisk(Request[OpenedDevice]):
    config: DiskConfig
    answer = OpenedDevice


@dataclass(frozen=True)
class OpenNic(Request[OpenedDevice]):
    config: NicConfig
    answer = OpenedDevice


@dataclass(frozen=True)
class OpenChannel(Request[OpenedDevice]):
    config: ChannelConfig
    answer = OpenedDevice


@dataclass(frozen=True)
class Release(Request[Done]):
    """The device of this number is not used any more."""

    number: int
    answer = Done


@dataclass(frozen=True)
class OpenConsoleLog(Request[Done]):
    """The file of the console's output, perhaps after a rotation."""

    rotate: bool
    answer = Done


@dataclass(frozen=True)
class OpenBuildFile(Request[Done]):
    """One that the domain is built from: the kernel, the ramdisk or the System.map of its
    configuration."""

    path: str
    answer = Done


@dataclass(frozen=True)
class OpenCore(Request[OpenedFile]):
    """A file for a core dump; without a path that of a domain that has crashed."""

    path: str
    answer = OpenedFile


@dataclass(frozen=True)
class FinishCore(Request[Done]):
    """It is whole, and gets its name; or it is not, and goes."""

    number: int
    whole: bool
    answer = Done


REQUESTS: Final = {
    wire_name(each): each
    for each in (
        Join,
        Renumber,
        Rename,
        Configure,
        Spawn,
        Leave,
        ConnectStore,
        OpenDisk,
        OpenNic,
        OpenChannel,
        Release,
        OpenConsoleLog,
        OpenBuildFile,
        OpenCore,
        FinishCore,
    )
}
