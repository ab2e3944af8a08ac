# SPDX-License-Identifier: GPL-2.0-or-later
"""Public helpers for tests of pyxen and of programs that use it: an engine and doors without a
guest."""

from __future__ import annotations

from pyxen.testing.fake_doors import FakeDoors, FakeStore
from pyxen.testing.fake_engine import FakeCpu, FakeEngine, Step, make_hypercall

__all__ = ["FakeCpu", "FakeDoors", "FakeEngine", "FakeStore", "Step", "make_hypercall"]
