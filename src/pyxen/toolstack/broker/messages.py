# SPDX-License-Identifier: GPL-2.0-or-later
"""What a domain's process asks of its broker. Open files come along with the answers."""

from __future__ import annotations

from typing import Any, Final

from pyxen.toolstack.control.messages import Done, Message, Request, wire_name
from pyxen.toolstack.devices.channel import ChannelConfig
from pyxen.toolstack.devices.disk import DiskConfig
from pyxen.toolstack.devices.nic import NicConfig
from pyxen.toolstack.registry import Record

# Answers


class OpenedFile(Message, frozen=True):
    """What was opened has this number from now on."""

    number: int


class OpenedDevice(Message, frozen=True):
    """As ``backends.opened.Opened`` has it."""

    number: int
    pid: int
    facts: dict[str, Any]


# Requests


class Join(Request[Record], frozen=True):
    """Give the domain a number and a folder: the folder's lock, and the folder."""

    answer = Record


class Renumber(Request[Record], frozen=True):
    """It begins anew, under the next number."""

    answer = Record


class Rename(Request[Record], frozen=True):
    name: str
    uuid: str | None
    answer = Record


class Configure(Request[Done], frozen=True):
    """What a restart is to go by, in libxl's shape."""

    config: dict[str, Any]
    answer = Done


class Spawn(Request[Done], frozen=True):
    """Start a domain of this configuration in another process, in place of this one."""

    config: dict[str, Any]
    answer = Done


class Leave(Request[Done], frozen=True):
    """The domain is no more."""

    answer = Done


class ConnectStore(Request[Done], frozen=True):
    """A connection with the host's xenstore, which is started, if that is wanted and need be."""

    start: bool
    answer = Done


class OpenDisk(Request[OpenedDevice], frozen=True):
    config: DiskConfig
    answer = OpenedDevice


class OpenNic(Request[OpenedDevice], frozen=True):
    config: NicConfig
    answer = OpenedDevice


class OpenChannel(Request[OpenedDevice], frozen=True):
    config: ChannelConfig
    answer = OpenedDevice


class Release(Request[Done], frozen=True):
    """The device of this number is not used any more."""

    number: int
    answer = Done


class OpenConsoleLog(Request[Done], frozen=True):
    """The file of the console's output, perhaps after a rotation."""

    rotate: bool
    answer = Done


class OpenBuildFile(Request[Done], frozen=True):
    """One that the domain is built from: the kernel, the ramdisk or the System.map of its
    configuration."""

    path: str
    answer = Done


class OpenCore(Request[OpenedFile], frozen=True):
    """A file for a core dump; without a path that of a domain that has crashed."""

    path: str
    answer = OpenedFile


class FinishCore(Request[Done], frozen=True):
    """It is whole, and gets its name; or it is not, and goes."""

    number: int
    whole: bool
    answer = Done


REQUESTS: Final = {
    wire_name(each.__name__): each
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
