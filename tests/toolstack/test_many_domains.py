# SPDX-License-Identifier: GPL-2.0-or-later
"""Many domains at once on one host."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from machine import PATIENCE, Machine
from pyxen import Domain
from pyxen.testing import kernels
from pyxen.toolstack.images import READY_MARKER, Image

SOURCE = Path(__file__).parents[2] / "guests" / "lifecycle" / "lifecycle.c"
DOMAINS = 20
DEBIAN_DOMAINS = 6
DEBIAN_PATIENCE = 600.0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    with Machine() as machine:
        for name in ("PYXEN_RUN", "XDG_STATE_HOME"):
            monkeypatch.setenv(name, machine.environment[name])
        yield machine


def test_twenty_small_ones(machine: Machine) -> None:
    try:
        kernel = kernels.build_kernel(SOURCE)
    except kernels.BuildToolsMissing as error:
        pytest.skip(str(error))
    domains = []
    for number in range(DOMAINS):
        domain = Domain(name=f"d{number}", kernel=kernel, memory=64, extra="echo")
        domain.start()
        domains.append(domain)
    names = {state.split()[0] for state in machine.names().values()}
    assert names == {f"d{number}" for number in range(DOMAINS)}
    for domain in domains:
        domain.console.send(f"are you {domain.name}?\n")
    for domain in domains:
        domain.console.expect(f"heard: are you {domain.name}\\?", PATIENCE)
    for domain in domains:
        domain.console.send("poweroff\n")
    for domain in domains:
        assert domain.wait(PATIENCE) == "poweroff"
        domain.close()
    machine.until(lambda: machine.names() == {})
    machine.until(lambda: not machine.leaks())
    assert machine.store_nodes() == []


@pytest.mark.slow
@pytest.mark.guest
def test_some_of_debian(machine: Machine, debian_cloud_image: Image) -> None:
    # Debian's kernel needs so much: its image alone ends at 62 MiB.
    domains = []
    for number in range(DEBIAN_DOMAINS):
        domain = Domain(
            name=f"d{number}",
            image=debian_cloud_image.name,
            memory=80,
            extra="console=hvc0 quiet",
        )
        domain.start()
        domains.append(domain)
    for domain in domains:
        domain.console.expect(re.escape(READY_MARKER), DEBIAN_PATIENCE)
        domain.console.expect("# ", DEBIAN_PATIENCE)
    for domain in domains:
        assert domain.run(f"echo I am {domain.name}").output.strip() == f"I am {domain.name}"
    done = machine.call("shutdown", "-w", "-a")
    assert (done.returncode, done.stderr.count("Shutting down domain")) == (0, DEBIAN_DOMAINS)
    for domain in domains:
        assert domain.wait(PATIENCE) == "poweroff"
        domain.close()
    machine.until(lambda: machine.names() == {})
    machine.until(lambda: not machine.leaks())
