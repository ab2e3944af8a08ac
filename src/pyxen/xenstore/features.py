# SPDX-License-Identifier: GPL-2.0-or-later
"""What a domain is offered by the feature word of its ring."""

from __future__ import annotations

from typing import Final

from pyxen.abi import io_xs_wire as abi

FEATURE_WATCH_DEPTH: Final = 4
"""Of xenstore.txt; the public header does not name it."""

FEATURES: Final = (
    abi.XENSTORE_SERVER_FEATURE_RECONNECTION
    | abi.XENSTORE_SERVER_FEATURE_ERROR
    | FEATURE_WATCH_DEPTH
)
