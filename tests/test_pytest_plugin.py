# SPDX-License-Identifier: GPL-2.0-or-later
"""The pytest plugin, in test runs of its own: as the example does it, and for tests that fail."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyxen import pytest_plugin
from pyxen.testing import kernels
from pyxen.toolstack.registry import Registry

ROOT = Path(__file__).parents[1]
KERNEL = ROOT / "guests" / "lifecycle" / "lifecycle.c"

pytestmark = [pytest.mark.xen_needs("compiler"), pytest.mark.usefixtures("own_host")]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert Registry().entries() == []


def run(pytester: pytest.Pytester, source: str, *arguments: str) -> pytest.RunResult:
    pytester.makepyfile(
        f"""
        from pathlib import Path

        import pytest
        from pyxen.testing.kernels import build_kernel

        KERNEL = Path({str(KERNEL)!r})

        {source}
        """
    )
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)


def test_the_example(pytester: pytest.Pytester) -> None:
    folder = ROOT / "examples" / "hello_kernel"
    for name in ("hello.c", "test_hello.py"):
        shutil.copy(folder / name, pytester.path)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)


def test_the_console_of_a_test_that_fails(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        def test_two(xen_domain):
            for name in ("one", "two"):
                domain = xen_domain(kernel=build_kernel(KERNEL), name=name, memory=8, extra=name)
                domain.console.expect(f"begun: {name}")
            assert False, "on purpose"

        def test_fine(xen_domain):
            domain = xen_domain(kernel=build_kernel(KERNEL), memory=8, extra="poweroff fine")
            assert domain.wait() == "poweroff"
        """,
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*console of domain one*", "begun: one*"])
    result.stdout.fnmatch_lines(["*console of domain two*", "begun: two*"])
    assert "fine" not in result.stdout.str()


def test_in_parallel(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        @pytest.mark.parametrize("number", range(4))
        def test_all_at_once(xen_domain, number):
            domain = xen_domain(kernel=build_kernel(KERNEL), memory=8, extra=f"is {number}")
            domain.console.expect(f"begun: is {number}\\n")
        """.replace("\\n", "\\\\n"),
        "-n2",
    )
    result.assert_outcomes(passed=4)


def test_a_marker(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import pyxen.pytest_plugin as plugin

        plugin.NEEDS["moon"] = lambda: "it is new moon"

        @pytest.mark.xen_needs("compiler", "moon")
        def test_never():
            assert False

        @pytest.mark.xen_needs("compiler")
        def test_here():
            pass

        @pytest.mark.xen_needs("cat")
        def test_wrong():
            pass
        """,
        "-rs",
    )
    result.assert_outcomes(passed=1, skipped=1, errors=1)
    result.stdout.fnmatch_lines_random(["*it is new moon*", "*'cat' is none of compiler,*"])


def test_what_a_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    kernels._identify.cache_clear()
    for name, look in pytest_plugin.NEEDS.items():
        assert re.fullmatch(r"[^\n]+", look() or ""), name


def test_no_image(pytester: pytest.Pytester) -> None:
    result = run(pytester, "def test_it(xen_image): xen_image('no such thing')", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*no image no such thing*"])
