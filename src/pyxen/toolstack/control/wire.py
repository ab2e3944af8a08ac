# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages as lines of JSON, and back, by the types of the dataclasses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pyxen.errors import PyxenError
from pyxen.toolstack.control.messages import REQUESTS, Event, Request, wire_name

Message = TypeVar("Message")


def request_line(request: Request[Any]) -> bytes:
    """A request as it is sent."""
    return _line({"request": wire_name(type(request)), **asdict(request)})  # type: ignore[call-overload]


def answer_line(answer: Any) -> bytes:
    return _line({"answer": asdict(answer)})


def error_line(message: str, error: OSError | None = None) -> bytes:
    """``error``: for those who tell errors of the system apart."""
    number = {} if error is None else {"errno": error.errno or 0, "file": str(error.filename)}
    return _line({"error": message, **number})


def event_line(event: Event) -> bytes:
    return _line({"event": asdict(event)})


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def read_line(line: bytes) -> dict[str, Any]:
    """Any message as the object that it is. Raises PyxenError."""
    try:
        content = json.loads(line)
    except ValueError as error:
        raise PyxenError(f"control socket: no JSON: {error}") from None
    if not isinstance(content, dict):
        raise PyxenError("control socket: a message is an object")
    return content


def read_request(
    line: bytes, requests: Mapping[str, type[Request[Any]]] = REQUESTS
) -> Request[Any]:
    """Raises PyxenError for what is none of these requests."""
    content = read_line(line)
    name = content.pop("request", None)
    kind = requests.get(name) if isinstance(name, str) else None
    if kind is None:
        raise PyxenError(f"control socket: no such request: {name!r}")
    request: Request[Any] = read_message(kind, content)
    return request


def read_message(kind: type[Message], content: Any) -> Message:
    """An object as a message of this type. Raises PyxenError naming what does not fit."""
    message: Message = _read(kind, content, kind.__name__)
    return message


def _read(kind: Any, value: Any, place: str) -> Any:
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _read_dataclass(kind, value, place)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(arguments[0], item, place) for item in value)
    if origin is dict and isinstance(value, dict):
        return {key: _read(arguments[1], item, f"{place}.{key}") for key, item in value.items()}
    if origin in (Union, UnionType):
        return None if value is None else _read(arguments[0], value, place)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        expected = getattr(kind, "__name__", str(kind))
        raise PyxenError(f"control socket: {place}: expected {expected}, found {value!r}")
    return value


def _read_dataclass(kind: Any, value: Any, place: str) -> Any:
    types = _types(kind)
    if not isinstance(value, dict) or not value.keys() <= types.keys():
        raise PyxenError(f"control socket: {place}: does not fit: {value!r}")
    try:
        return kind(
            **{name: _read(types[name], item, f"{place}.{name}") for name, item in value.items()}
        )
    except TypeError as error:
        raise PyxenError(f"control socket: {place}: {error}") from None


@cache
def _types(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}
