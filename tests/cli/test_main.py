# SPDX-License-Identifier: GPL-2.0-or-later
"""The command as a process: start, version, help, closed descriptors, closed pipes."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pyxen
from pyxen.cli.main import VERBS, main

PYXEN = (sys.executable, "-m", "pyxen")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(("--version",))
    assert left.value.code == 0
    assert capsys.readouterr().out == f"pyxen {pyxen.__version__}\n"


def test_no_verb_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(())
    assert left.value.code == 2


@pytest.mark.parametrize("verb", (("run",), ("image",), ("image", "pull"), ("info",)))
def test_every_verb_explains_itself(
    verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main((*verb, "--help"))
    assert left.value.code == 0
    assert f"usage: pyxen {' '.join(verb)}" in capsys.readouterr().out


def test_a_verb_has_its_name_from_its_module(capsys: pytest.CaptureFixture[str]) -> None:
    # Of a verb that is called nothing but its own module is loaded.
    for verb in VERBS:
        with pytest.raises(SystemExit) as left:
            main((verb, "--help"))
        assert left.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: pyxen {verb} ")


def test_a_word_that_is_no_verb(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("no-such", "missing", "main"):
        with pytest.raises(SystemExit) as left:
            main((word,))
        assert left.value.code == 2
        assert f"there is no verb {word}; `pyxen help`" in capsys.readouterr().err


def test_help_as_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for words in (("help",), ("--help",), ("help", "list"), ("list", "--help")):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == 0
        shown.append(capsys.readouterr().out)
    assert (shown[0], shown[2]) == (shown[1], shown[3])
    assert "sched-credit2" in shown[0]


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from pyxen.cli.main import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "print(sorted(m for m in sys.modules if m in"
        " ('asyncio', 'unicorn', 'rich', 'ctypes', 'pyxen.engine', 'pyxen.hypervisor')))\n"
    )
    result = subprocess.run(
        (sys.executable, "-c", code), capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_it_runs_as_a_module() -> None:
    result = subprocess.run((*PYXEN, "--version"), capture_output=True, text=True, check=True)
    assert result.stdout == f"pyxen {pyxen.__version__}\n"


def test_closed_standard_descriptors_do_no_harm() -> None:
    script = 'exec "$@" <&- >&- 2>&-'
    result = subprocess.run(
        ("sh", "-c", script, "sh", *PYXEN, "image", "list"), check=False, timeout=60
    )
    assert result.returncode == 0


def test_a_closed_pipe_is_quiet() -> None:
    process = subprocess.Popen(
        (*PYXEN, "info"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 141
    assert errors == ""
