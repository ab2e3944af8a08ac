# SPDX-License-Identifier: GPL-2.0-or-later
"""All references and types of frames, counted anew while Linux runs and when it has ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from pyxen.abi.sched import SCHEDOP_shutdown
from pyxen.abi.xen import HYPERVISOR_sched_op
from pyxen.hypervisor.instruments import Instrument
from pyxen.hypervisor.vcpu import Vcpu
from pyxen.toolstack import images, lifecycle
from pyxen.toolstack.config import DomainConfig

pytestmark = [pytest.mark.guest, pytest.mark.slow]

EVERY = 20_000
"""Hypercalls between two audits."""
LIMIT = 120.0
WORK = "for i in 1 2 3; do ls -R /proc/self /sys/module >/dev/null; cat /proc/$$/maps; done"


class Audits(Instrument):
    """Audits the domain every so many hypercalls, and at its shutdown."""

    def __init__(self) -> None:
        self.calls = 0
        self.found: list[list[str]] = []
        self.at_the_end = False

    def before_hypercall(self, vcpu: Vcpu, number: int, arguments: tuple[int, ...]) -> None:
        self.calls += 1
        ends = number == HYPERVISOR_sched_op and arguments[0] == SCHEDOP_shutdown
        if ends or self.calls % EVERY == 0:
            self.found.append(vcpu.domain.audit())
            self.at_the_end |= ends


class User:
    """Types commands when the guest is ready for them."""

    def __init__(self, commands: str) -> None:
        self.printed = ""
        self._commands = commands
        self._typed = False
        self._left = threading.Event()

    def output(self, data: bytes) -> None:
        self.printed += data.decode(errors="replace")

    async def serve(
        self, write_input: Callable[[bytes], None], pending_input: Callable[[], int]
    ) -> None:
        while not self._left.is_set():
            await asyncio.sleep(0.05)
            if not self._typed and images.READY_MARKER in self.printed:
                write_input(self._commands.encode())
                self._typed = True

    def leave(self) -> None:
        self._left.set()


@pytest.mark.parametrize("vcpus", [1, 2])
def test_counts_are_right_while_linux_runs(debian_cloud_image: images.Image, vcpus: int) -> None:
    audits = Audits()
    user = User(f"{WORK}\npoweroff -f\n")
    outcome = lifecycle.run(
        DomainConfig(
            kernel=debian_cloud_image.kernel,
            ramdisk=debian_cloud_image.ramdisk,
            command_line="console=hvc0 quiet",
            memory_mib=256,
            vcpus=vcpus,
            on_reboot="destroy",
        ),
        user,
        [audits],
        timeout=LIMIT,
    )
    assert outcome.exit_reason == "poweroff", user.printed[-4000:]
    assert audits.at_the_end
    assert len(audits.found) > 1
    assert not any(audits.found)
