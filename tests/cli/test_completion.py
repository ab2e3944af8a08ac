# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen completion``, in the shells themselves: words are typed in a terminal, with a tabulator.

The ``pyxen`` that they find shows with what it is called.
"""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyxen.cli import completion
from pyxen.cli.main import main
from pyxen.toolstack.registry import Record, Registry

PATIENCE = 60.0
SHELLS = {
    "bash": ("bash --norc --noprofile -i", 'eval "$(pyxen completion bash)"'),
    "zsh": (
        "zsh -f -i",
        'autoload -Uz compinit; compinit -D -u; eval "$(pyxen completion zsh)"',
    ),
    "fish": ("fish --no-config -i", "pyxen completion fish | source"),
}
WRAPPER = """\
#!/bin/sh
[ "$1" = completion ] && exec {python} -m pyxen "$@"
printf 'called:'
printf '<%s>' "$@"
echo
"""


class Shell:
    def __init__(self, name: str, command: str, folder: Path) -> None:
        self.name = name
        wrapper = folder / "bin" / "pyxen"
        wrapper.parent.mkdir()
        wrapper.write_text(WRAPPER.format(python=sys.executable))
        wrapper.chmod(0o755)
        (folder / "guest.cfg").touch()
        self._shown = ""
        self._master, slave = pty.openpty()
        path = f"{wrapper.parent}:{os.environ['PATH']}"
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *command.split()],
            cwd=folder,
            env={**os.environ, "PATH": path, "HOME": str(folder), "TERM": "xterm"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def type(self, keys: str, expected: str) -> None:
        """Type this; it is shown what is expected."""
        self._shown = ""
        os.write(self._master, keys.encode())
        deadline = time.monotonic() + PATIENCE
        while expected not in self._shown:
            assert time.monotonic() < deadline, self._shown
            if select.select([self._master], [], [], 0.1)[0]:
                self._shown += os.read(self._master, 65536).decode(errors="replace")


@pytest.fixture
def domains(own_host: None) -> Iterator[None]:
    """Two that live: nothing but their names is wanted."""
    members = [
        Registry().add(lambda domid, name=name: Record(domid, name, "", 1, 0.0, "", 8, 1), {})
        for name in ("webserver", "mail-1")
    ]
    yield
    for member in members:
        member.leave()


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, domains: None, tmp_path: Path) -> Iterator[Shell]:
    command, begin = SHELLS[request.param]
    if shutil.which(request.param) is None:
        pytest.skip(f"there is no {request.param}")
    shell = Shell(request.param, command, tmp_path)
    try:
        shell.type(f"{begin}; echo rea''dy\r", "ready")
        yield shell
    finally:
        shell.close()


def test_what_a_shell_completes(shell: Shell) -> None:
    for typed, called in (
        ("pyxen destr\t", "<destroy>"),
        ("pyxen network-d\t", "<network-detach>"),
        ("pyxen image pu\t", "<image><pull>"),
        ("pyxen create --defc\t", "<create><--defconfig>"),
        ("pyxen create gue\t", "<create><guest.cfg>"),
        ("pyxen create -f gue\t", "<create><-f><guest.cfg>"),
        ("pyxen console web\t", "<console><webserver>"),
        ("pyxen vcpu-set mai\t3", "<vcpu-set><mail-1><3>"),
    ):
        shell.type(f"{typed}\r", f"called:{called}")
    if shell.name != "zsh":  # for which shtab's script completes the first of several
        shell.type("pyxen uptime web\tmai\t\r", "called:<uptime><webserver><mail-1>")


@pytest.mark.usefixtures("domains")
def test_names_of_domains(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "domains"]) == 0
    assert capsys.readouterr().out.split() == ["webserver", "mail-1"]


def test_verbs_to_come_are_not_offered(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in completion.SHELLS:
        assert main(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert "vcpu-list" in script
        assert "migrate-receive" not in script
