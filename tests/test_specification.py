# SPDX-License-Identifier: GPL-2.0-or-later
"""SPECIFICATION.md: each promise and each row of its table names what holds it, and that exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NUMBER = re.compile(r"- (\d+\.\d+) ")
HOLDER = re.compile(r"`((?:tests|bench)/[\w./]+\.py(?:::\w+)*)`")
NO_TEST = "no test yet"
ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \|$", re.MULTILINE)
ROWS = 27


def read_promises() -> dict[str, str]:
    """The text of each promise by its number, wrapped lines joined."""
    promises: dict[str, str] = {}
    text = (ROOT / "SPECIFICATION.md").read_text()
    for item in re.findall(r"^- .*(?:\n  .*)*", text, re.MULTILINE):
        match = NUMBER.match(item)
        assert match, f"no number: {item}"
        assert match[1] not in promises, f"{match[1]} stands there twice"
        promises[match[1]] = " ".join(item.split())
    return promises


PROMISES = read_promises()
TABLE = ROW.findall((ROOT / "SPECIFICATION.md").read_text())
TEXTS = [*PROMISES.values(), *(text for _, _, text in TABLE)]
HOLDERS = sorted({holder for text in TEXTS for holder in HOLDER.findall(text)})


@cache
def names_in(path: Path) -> frozenset[str]:
    """What a file defines: `function`, `Class`, `Class::function`."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign):  # a test class made by Hypothesis
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            if isinstance(node, ast.ClassDef):
                names |= {
                    f"{node.name}::{method.name}"
                    for method in node.body
                    if isinstance(method, ast.FunctionDef)
                }
    return frozenset(names)


def test_numbers_are_in_order_without_gaps() -> None:
    numbers = [tuple(map(int, number.split("."))) for number in PROMISES]
    expected = (1, 1)
    for number in numbers:
        if number[0] == expected[0] + 1:
            expected = (number[0], 1)
        assert number == expected
        expected = (number[0], number[1] + 1)


@pytest.mark.parametrize("number", PROMISES)
def test_promise_says_what_holds_it(number: str) -> None:
    text = PROMISES[number]
    assert bool(HOLDER.search(text)) != (NO_TEST in text), text


def test_each_row_of_the_table_says_what_holds_it() -> None:
    assert [int(number) for number, _, _ in TABLE] == list(range(1, ROWS + 1))
    for _, _, text in TABLE:
        assert HOLDER.search(text) or "not yet" in text, text


@pytest.mark.parametrize("holder", HOLDERS)
def test_what_holds_a_promise_exists(holder: str) -> None:
    file, *names = holder.split("::")
    assert (ROOT / file).is_file()
    if file.startswith("tests/"):
        assert names, "a test is named by its file and its function"
        assert re.match(r"[Tt]est", names[-1])
        assert "::".join(names) in names_in(ROOT / file)
