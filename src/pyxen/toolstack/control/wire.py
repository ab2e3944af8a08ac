# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages as lines of JSON, and back, by the types of their fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from pyxen.errors import PyxenError
from pyxen.toolstack.control.messages import REQUESTS, Event, Request

Message = TypeVar("Message")


def request_line(request: Request[Any]) -> bytes:
    """A request as it is sent."""
    return _line(request)


def answer_line(answer: Any) -> bytes:
    return _line({"answer": answer})


def error_line(message: str, error: OSError | None = None) -> bytes:
    """``error``: for those who tell errors of the system apart."""
    number = {} if error is None else {"errno": error.errno or 0, "file": str(error.filename)}
    return _line({"error": message, **number})


def event_line(event: Event) -> bytes:
    return _line({"event": event})


def _line(content: Any) -> bytes:
    return msgspec.json.encode(content) + b"\n"


def read_line(line: bytes) -> dict[str, Any]:
    """Any message as the object that it is. Raises PyxenError."""
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PyxenError(f"control socket: no message: {error}") from None


def read_request(
    line: bytes, requests: Mapping[str, type[Request[Any]]] = REQUESTS
) -> Request[Any]:
    """Raises PyxenError for what is none of these requests."""
    content = read_line(line)
    name = content.get("request")
    kind = requests.get(name) if isinstance(name, str) else None
    if kind is None:
        raise PyxenError(f"control socket: no such request: {name!r}")
    return read_message(kind, content)


def read_message(kind: type[Message], content: Any) -> Message:
    """An object as a message of this type. Raises PyxenError naming what does not fit."""
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise PyxenError(f"control socket: {kind.__name__}: {error}") from None
