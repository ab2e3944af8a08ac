# SPDX-License-Identifier: GPL-2.0-or-later
"""The language of xl.cfg: what libxlu's grammar takes, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyxen.errors import PyxenError
from pyxen.toolstack.config.syntax import List, Setting, Text, format_setting, parse

Plain = str | list["Plain"]


def plain(value: Text | List) -> Plain:
    return value.text if isinstance(value, Text) else [plain(item) for item in value.items]


def values(text: str) -> dict[str, Plain]:
    return {name: plain(setting.value) for name, setting in parse(text, "g.cfg").items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    (
        ("", {}),
        ("\n\n# only a comment", {}),
        ('name = "web"', {"name": "web"}),
        ("name='web' # a comment\n", {"name": "web"}),
        ("vcpus=2;memory=0x100;\n;;", {"vcpus": "2", "memory": "0x100"}),
        ("\tname\t=\t'a'\n", {"name": "a"}),
        ("a.b_1 = 1", {"a.b_1": "1"}),
        ("l = []", {"l": []}),
        ("l = [ 'a', 1, ]", {"l": ["a", "1"]}),
        ("l = [\n\n'a' # one\n,\n# two\n'b'\n]\n", {"l": ["a", "b"]}),
        ("l = [ [ 'a', 'b' ], ['c'], [] ]", {"l": [["a", "b"], ["c"], []]}),
        ("a = 'x'\na = 'y'", {"a": "y"}),
        ("a = 'x'\na += 'y'", {"a": "xy"}),
        ("a += 'y'", {"a": "y"}),
        ("l = ['x']\nl += ['y', 'z']", {"l": ["x", "y", "z"]}),
        (r"""s = 'it\'s "\t\\\n\x41\101'""", {"s": "it's \"\t\\\nAA"}),
        ('s = "a#b;c"', {"s": "a#b;c"}),
        ("s = 'ä€'", {"s": "ä€"}),
    ),
)
def test_what_is_read(text: str, expected: dict[str, Plain]) -> None:
    assert values(text) == expected


def test_lines_and_additions_are_known() -> None:
    settings = parse("\na = 1\nl = [\n'x',\n'y']\nl += ['z']\n", "g.cfg")
    assert settings["a"] == Setting("a", Text("1", 2), 2)
    value = settings["l"].value
    assert isinstance(value, List)
    assert [item.line for item in value.items] == [4, 5, 6]
    assert (settings["l"].line, settings["l"].added) == (6, True)


@pytest.mark.parametrize(
    ("text", "message"),
    (
        ("name = web", "g.cfg:1: expected a string, a number or a list (a string needs quotes)"),
        ("\nname 'web'", "g.cfg:2: expected = or += after name, found 'web'"),
        ("Name = 'web'", "g.cfg:1: unexpected 'Name'"),
        ("memory = 512M", "g.cfg:1: unexpected 'M'"),
        ("a = 'x", "g.cfg:1: a string has no end in its line"),
        ("a = 'x\n'", "g.cfg:1: a string has no end in its line"),
        ("a = 1 b = 2", "g.cfg:1: expected the end of the line, or ;, found b"),
        ("a = 1,", "g.cfg:1: expected the end of the line, or ;, found ,"),
        ("a = ", "g.cfg:1: expected a string, a number or a list, found the end of the file"),
        ("a =\n1", "g.cfg:1: expected a string, a number or a list, found the end of the line"),
        ("l = ['a'", "g.cfg:1: expected , or ] in a list, found the end of the file"),
        ("l = ['a' 'b']", "g.cfg:1: expected , or ] in a list, found 'b'"),
        ("l = [,]", "g.cfg:1: expected a string, a number or a list, found ,"),
        ("l = ['a',,]", "g.cfg:1: expected a string, a number or a list, found ,"),
        ("a = '\\q'", "g.cfg:1: unknown escape \\q in a string"),
        ("a = '\\0'", "g.cfg:1: a string cannot hold a zero byte"),
        ("a = 1\r\n", "g.cfg:1: a line ends in CR LF, as on Windows; xl takes LF alone"),
        ("import os", "g.cfg:1: expected = or += after import, found os"),
        ("a = 1\nb = f(1)", "g.cfg:2: unexpected '(1)' (xl.cfg is no Python"),
        ("a = (1)", "g.cfg:1: unexpected '(1)' (xl.cfg is no Python"),
        ("a = 1\na += ['x']", "g.cfg:2: a: += joins list and list, or string and string"),
        ("l = " + "[" * 20, "g.cfg:1: lists in lists go too deep"),
        ("= 1", "g.cfg:1: expected a name, found ="),
    ),
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(PyxenError) as refused:
        parse(text, "g.cfg")
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)


@given(st.one_of(TEXTS, st.lists(TEXTS, max_size=4)))
@settings(deadline=None)
def test_what_is_printed_is_read_again(value: str | list[str]) -> None:
    assert values(format_setting("a", value)) == {"a": value}


PIECES = st.sampled_from(
    (
        "a",
        "b1",
        "=",
        "+=",
        "[",
        "]",
        ",",
        ";",
        "\n",
        " ",
        "'x'",
        '"y"',
        "'",
        '"',
        "\\",
        "12",
        "0x1f",
        "# no\n",
        "#",
        "A",
        "-",
        "(",
        "\r",
        "é",
        "\x00",
    )
)


@given(st.one_of(st.lists(PIECES, max_size=25).map("".join), st.text(max_size=40)))
@settings(deadline=None, max_examples=200)
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        parse(text, "g.cfg")
        refusal = "g.cfg:"
    except PyxenError as error:
        refusal = str(error)
    assert refusal.startswith("g.cfg:")
    assert "\n" not in refusal
