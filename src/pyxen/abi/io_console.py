# SPDX-License-Identifier: GPL-2.0-or-later
"""The console ring (public/io/console.h).

The console of a PV domain is one page that guest and back end share, and one event channel. The
page has two rings of characters, one each way, seen from the guest: it reads `in` and writes
`out`. Of the four indices each is written by one side only: a producer writes characters and then
advances prod, a consumer reads and then advances cons, and each sends an event after it. The
indices run freely and wrap at 2**32; the place in the ring is the index modulo the ring's size.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.layout import Layout

# Bytes of the two rings.
XENCONS_IN_SIZE: Final = 1024
XENCONS_OUT_SIZE: Final = 2048

XENCONS_INTERFACE: Final = Layout(
    "struct xencons_interface",
    ("in", f"{XENCONS_IN_SIZE}s"),
    ("out", f"{XENCONS_OUT_SIZE}s"),
    ("in_cons", "I"),
    ("in_prod", "I"),
    ("out_cons", "I"),
    ("out_prod", "I"),
)
