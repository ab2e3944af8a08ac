# SPDX-License-Identifier: GPL-2.0-or-later
"""Much work of many kinds at once, with each result checked; see guests/stress.

How long is said by the environment variable PYXEN_STRESS_SECONDS.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from observed import Observer, run_observed
from programs import build_all, write_ramdisk

from pyxen.toolstack import images

pytestmark = [pytest.mark.guest, pytest.mark.slow]

SECONDS = int(os.environ.get("PYXEN_STRESS_SECONDS", "25"))
MEMORY_MIB = 384


@pytest.fixture(scope="module")
def stressed(tmp_path_factory: pytest.TempPathFactory, debian_image: images.Image) -> Observer:
    folder = tmp_path_factory.mktemp("stress")
    ramdisk: Path = write_ramdisk(folder / "ramdisk", build_all("stress", folder))
    seen, outcome = run_observed(
        debian_image.kernel,
        ramdisk,
        f"console=hvc0 quiet rdinit=/stress -- {SECONDS}",
        memory_mib=MEMORY_MIB,
        vcpus=2,
        limit=2 * SECONDS + 300,
    )
    assert outcome.exit_reason == "poweroff", seen.console[-4000:]
    return seen


def test_all_work_is_done_right(stressed: Observer) -> None:
    results = stressed.results
    assert f"\n1..{len(results)}\n" in stressed.console
    failed = [result.text for result in results if not result.good]
    assert not failed, stressed.console[-4000:]


def test_kernel_has_no_complaint(stressed: Observer) -> None:
    looks = [result for result in stressed.results if "the kernel's log has no" in result.text]
    assert len(looks) >= 8
    assert all(result.good for result in looks), stressed.console[-4000:]


def test_books_are_right_afterwards(stressed: Observer) -> None:
    assert stressed.audits == 1
    assert stressed.audit_findings == []


def test_work_was_done(stressed: Observer) -> None:
    """The work has passed where it was meant to pass."""
    did = stressed.difference("begin", "end")
    operations = ("mmuext_op.pin_l4_table", "mmuext_op.unpin_table", "mmuext_op.set_ldt")
    assert all(did.operations(name) > SECONDS for name in operations)
    assert did.traps("page_fault_user") > 100 * SECONDS
    assert did.traps("system_call") > 100 * SECONDS
