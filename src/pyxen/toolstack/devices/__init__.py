# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices of domains: how users write them, and what becomes of that in the store.

``FACTORIES`` is the table of back ends: by the kind of device a function that makes one of a
configuration, of which it opens what is on the host. It raises PyxenError where that cannot be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pyxen.backends.doors import Doors
    from pyxen.backends.xenbus import Backend

    Factory = Callable[[Doors, str, str, Any], Backend]
    """Of doors, back end's path, front end's path, and the configuration of the device."""


def _make_vbd(doors: Doors, backend_path: str, frontend_path: str, config: Any) -> Backend:
    from pyxen.toolstack.devices.vbd import make_vbd  # runs without disks need not load it

    return make_vbd(doors, backend_path, frontend_path, config)


def _make_vif(doors: Doors, backend_path: str, frontend_path: str, config: Any) -> Backend:
    from pyxen.toolstack.devices.vif import make_vif

    return make_vif(doors, backend_path, frontend_path, config)


def _make_console(doors: Doors, backend_path: str, frontend_path: str, config: Any) -> Backend:
    from pyxen.toolstack.devices.console import make_console

    return make_console(doors, backend_path, frontend_path, config)


FACTORIES: Final[dict[str, Factory]] = {
    "vbd": _make_vbd,
    "vif": _make_vif,
    "console": _make_console,
}
