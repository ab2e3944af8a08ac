# SPDX-License-Identifier: GPL-2.0-or-later
"""States of the two ends of a device (public/io/xenbus.h).

A device is a pair of directories in the xenstore, the front end's and the back end's. Each has a
node ``state``, which its own side writes and the other one watches; by these numbers the two tell
each other how far they are.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.names import names_of

XenbusStateUnknown: Final = 0
XenbusStateInitialising: Final = 1
XenbusStateInitWait: Final = 2
XenbusStateInitialised: Final = 3
XenbusStateConnected: Final = 4
XenbusStateClosing: Final = 5
XenbusStateClosed: Final = 6
XenbusStateReconfiguring: Final = 7
XenbusStateReconfigured: Final = 8

XENBUS_STATE_NAMES: Final[dict[int, str]] = names_of(globals(), "XenbusState")
