# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of handlers and the decorator that fills it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pyxen.hypervisor.instruments import NR_HYPERCALLS

Handler = Callable[..., int | None]

HANDLERS: Final[list[Handler | None]] = [None] * NR_HYPERCALLS
ARITIES: Final = bytearray(NR_HYPERCALLS)


def hypercall(number: int) -> Callable[[Handler], Handler]:
    """Put a handler into the table. Its arguments behind the vCPU are the hypercall's."""

    def register(handler: Handler) -> Handler:
        code: Any = handler.__code__
        HANDLERS[number] = handler
        ARITIES[number] = code.co_argcount - 1
        return handler

    return register
