# SPDX-License-Identifier: GPL-2.0-or-later
"""The back end of network cards.

A front end's rings (``ring``) are served by a ``Transmitter`` (``transmit``) and a ``Receiver``
(``receive``), a pair of which is a queue (``queue``); ``backend`` is its part in the xenstore.
Frames go to and come from a link (``link``, ``links``); where one of the two takes complete frames
only, ``offload`` finishes them.
"""

from __future__ import annotations

from pyxen.backends.net.backend import NetBackend
from pyxen.backends.net.link import Frame, Link, Receive

__all__ = ["Frame", "Link", "NetBackend", "Receive"]
