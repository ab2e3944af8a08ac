# SPDX-License-Identifier: GPL-2.0-or-later
"""The language of xl.cfg: assignments of strings, numbers and lists to names.

::

    name = "web"                    # a comment
    vcpus = 2; memory = 0x100
    disk = [ "/images/root.img,raw,xvda,rw",
             '/images/data.img,raw,xvdb,ro', ]
    disk += [ "/images/more.img,raw,xvdc" ]

It looks like Python and is not. A name begins with a lower-case letter and goes on with such
letters, digits, points and underscores. A number is kept as its text, as a string is, and only what
reads the option makes a number of it: hexadecimal after 0x, octal after 0. A list may hold lists,
and only in a list may a value go over several lines. ``+=`` appends to what is there already, list
to list or string to string; of several assignments of a name the last counts. Where xl would go on
after a mistake, to show the next one, the first is the end here.

Reference: ``xl.cfg(5)``, and the grammar of libxlu. Of numeric escapes in strings (``\\x41``,
``\\101``) libxlu makes nothing, by mistake; here they are what they say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from pyxen.errors import PyxenError

_TOKEN: Final = re.compile(
    r"""
      (?P<blank> [ \t]+ )
    | (?P<newline> (?:\#[^\n]*)? \n | \#[^\n]*\Z )
    | (?P<name> [a-z][._0-9a-z]* )
    | (?P<number> [0-9][0-9a-fx]* )
    | (?P<string> '(?:[^'\\\n]|\\[^\n])*' | "(?:[^"\\\n]|\\[^\n])*" )
    | (?P<sign> \+= | [,=;\[\]] )
    """,
    re.VERBOSE,
)
_PYTHON: Final = "+-.():"
_ESCAPE: Final = re.compile(r"\\(x[0-9a-fA-F]{2}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPES: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_MAX_DEPTH: Final = 16
"""No option has lists in lists in lists."""
_SHOWN: Final = 20


class Text(Struct, frozen=True):
    """A string or a number, and its line."""

    text: str
    line: int


class List(Struct, frozen=True):
    """A list, and the line where it begins."""

    items: tuple[Text | List, ...]
    line: int


class Setting(Struct, frozen=True):
    """What a name has been set to; ``added`` if the last assignment was a ``+=``."""

    name: str
    value: Text | List
    line: int
    added: bool = False


class _Token(Struct, frozen=True):
    kind: str
    text: str
    line: int


def parse(text: str, source: str) -> dict[str, Setting]:
    """The settings by name. Raises PyxenError with ``source`` and the line."""
    return _Parser(list(_tokens(text, source)), source).settings()


def _fail(source: str, line: int, message: str) -> PyxenError:
    return PyxenError(f"{source}:{line}: {message}")


def _tokens(text: str, source: str) -> Iterable[_Token]:
    line, position = 1, 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _fail(source, line, _what_is_wrong(text, position))
        kind = str(match.lastgroup)
        if kind != "blank":
            token = match[0]
            yield _Token(token if kind == "sign" else kind, token, line)
        if kind == "newline":
            line += 1
        position = match.end()
    yield _Token("end", "", line)


def _what_is_wrong(text: str, position: int) -> str:
    character = text[position]
    if character in "\"'":
        return "a string has no end in its line"
    if character == "\r":
        return "a line ends in CR LF, as on Windows; xl takes LF alone"
    rest = re.split(r"[ \t\n]", text[position : position + _SHOWN])[0]
    hint = " (xl.cfg is no Python, it has names, strings, numbers and lists only)"
    return f"unexpected {rest!r}{hint if character in _PYTHON else ''}"


class _Parser:
    def __init__(self, tokens: list[_Token], source: str) -> None:
        self._tokens = tokens
        self._source = source
        self._next = 0

    def settings(self) -> dict[str, Setting]:
        found: dict[str, Setting] = {}
        while self._kind() != "end":
            if self._take("newline") or self._take(";"):
                continue
            setting = self._assignment(found)
            found[setting.name] = setting
            if self._kind() not in ("newline", ";", "end"):
                raise self._unexpected("the end of the line, or ;")
        return found

    def _assignment(self, found: dict[str, Setting]) -> Setting:
        if self._kind() != "name":
            raise self._unexpected("a name")
        name = self._advance()
        if self._kind() not in ("=", "+="):
            raise self._unexpected(f"= or += after {name.text}")
        added = self._advance().text == "+="
        value = self._value(0)
        if added and name.text in found:
            value = self._join(name, found[name.text].value, value)
        return Setting(name.text, value, name.line, added)

    def _value(self, depth: int) -> Text | List:
        line = self._tokens[self._next].line
        if self._kind() == "string":
            return Text(self._dequote(self._advance()), line)
        if self._kind() == "number":
            return Text(self._advance().text, line)
        if self._kind() == "name":
            raise self._unexpected("a string, a number or a list (a string needs quotes)")
        if self._kind() != "[":
            raise self._unexpected("a string, a number or a list")
        if depth == _MAX_DEPTH:
            raise self._fail("lists in lists go too deep")
        self._advance()
        return List(tuple(self._items(depth + 1)), line)

    def _items(self, depth: int) -> Iterable[Text | List]:
        """What is in a list, up to and with its closing bracket."""
        self._skip_newlines()
        while not self._take("]"):
            yield self._value(depth)
            self._skip_newlines()
            if self._take(","):
                self._skip_newlines()
            elif self._kind() != "]":
                raise self._unexpected(", or ] in a list")

    def _join(self, name: _Token, old: Text | List, new: Text | List) -> Text | List:
        if isinstance(old, Text) and isinstance(new, Text):
            return Text(old.text + new.text, new.line)
        if isinstance(old, List) and isinstance(new, List):
            return List(old.items + new.items, new.line)
        raise _fail(
            self._source, name.line, f"{name.text}: += joins list and list, or string and string"
        )

    def _dequote(self, token: _Token) -> str:
        def replace(match: re.Match[str]) -> str:
            escape = match[1]
            if escape[0] == "x" and len(escape) == 3:
                character = chr(int(escape[1:], 16))
            elif escape[0] in "01234567":
                character = chr(int(escape, 8) & 0xFF)
            elif escape in _ESCAPES:
                character = _ESCAPES[escape]
            elif escape in "\"'\\":
                character = escape
            else:
                raise _fail(self._source, token.line, f"unknown escape \\{escape} in a string")
            if character == "\0":
                raise _fail(self._source, token.line, "a string cannot hold a zero byte")
            return character

        if "\0" in token.text:
            raise _fail(self._source, token.line, "a string cannot hold a zero byte")
        return _ESCAPE.sub(replace, token.text[1:-1])

    # Tokens

    def _kind(self) -> str:
        return self._tokens[self._next].kind

    def _advance(self) -> _Token:
        token = self._tokens[self._next]
        self._next += 1
        return token

    def _take(self, kind: str) -> bool:
        if self._kind() != kind:
            return False
        self._next += 1
        return True

    def _skip_newlines(self) -> None:
        while self._take("newline"):
            pass

    def _fail(self, message: str) -> PyxenError:
        return _fail(self._source, self._tokens[self._next].line, message)

    def _unexpected(self, expected: str) -> PyxenError:
        token = self._tokens[self._next]
        found = {"end": "the end of the file", "newline": "the end of the line"}.get(token.kind)
        shown = token.text if len(token.text) <= _SHOWN else token.text[:_SHOWN] + "…"
        return self._fail(f"expected {expected}, found {found or shown}")


# The way back


def format_setting(name: str, value: str | int | Iterable[str]) -> str:
    """One line, or a list with a line for each item."""
    if isinstance(value, int):
        return f"{name} = {value}\n"
    if isinstance(value, str):
        return f"{name} = {_quote(value)}\n"
    return f"{name} = [\n" + "".join(f"    {_quote(item)},\n" for item in value) + "]\n"


def _quote(text: str) -> str:
    named = {character: f"\\{letter}" for letter, character in _ESCAPES.items()}
    named |= {'"': '\\"', "\\": "\\\\"}

    def escape(character: str) -> str:
        if character in named:
            return named[character]
        return character if character >= " " else f"\\x{ord(character):02x}"

    return '"' + "".join(map(escape, text)) + '"'
