# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices of domains: how users write them, and what becomes of that in the store.

``FACTORIES`` is the table of back ends by the kind of device. To make one has two steps: ``open``
opens what it needs of the host, or starts a program for it, and raises PyxenError where that cannot
be; ``make`` makes the back end of that. A domain's process has the first step done by another one
(``toolstack/broker``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from pyxen.backends.doors import Doors
    from pyxen.backends.opened import Opened
    from pyxen.backends.xenbus import Backend


class Factory(NamedTuple):
    """``open`` is called with the device's configuration and the domain's number, ``make`` with the
    doors, back end's path, front end's path, the configuration, and what was opened."""

    open: Callable[[Any, int], Opened]
    make: Callable[[Doors, str, str, Any, Opened], Backend]


# What a run does not use is not loaded.


def _open_vbd(config: Any, domid: int) -> Opened:
    from pyxen.toolstack.devices.vbd import open_vbd

    return open_vbd(config, domid)


def _make_vbd(doors: Doors, back: str, front: str, config: Any, opened: Opened) -> Backend:
    from pyxen.toolstack.devices.vbd import make_vbd

    return make_vbd(doors, back, front, config, opened)


def _open_vif(config: Any, domid: int) -> Opened:
    from pyxen.toolstack.devices.vif import open_vif

    return open_vif(config, domid)


def _make_vif(doors: Doors, back: str, front: str, config: Any, opened: Opened) -> Backend:
    from pyxen.toolstack.devices.vif import make_vif

    return make_vif(doors, back, front, config, opened)


def _open_console(config: Any, domid: int) -> Opened:
    from pyxen.toolstack.devices.console import open_console

    return open_console(config, domid)


def _make_console(doors: Doors, back: str, front: str, config: Any, opened: Opened) -> Backend:
    from pyxen.toolstack.devices.console import make_console

    return make_console(doors, back, front, config, opened)


FACTORIES: Final[dict[str, Factory]] = {
    "vbd": Factory(_open_vbd, _make_vbd),
    "vif": Factory(_open_vif, _make_vif),
    "console": Factory(_open_console, _make_console),
}
