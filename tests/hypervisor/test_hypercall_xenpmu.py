# SPDX-License-Identifier: GPL-2.0-or-later
"""xenpmu_op."""

from __future__ import annotations

import logging

import pytest
from small_domain import NOT_MAPPED, SmallDomain

from pyxen.abi import xen
from pyxen.abi.errno import EOPNOTSUPP


@pytest.mark.parametrize("operation", [0, 1, 2, 3, 4, 5, 6, 7, 99])
def test_refused_as_by_xen_without_vpmu(
    guest: SmallDomain, operation: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        # Before anything else, the parameters included.
        assert guest.call(xen.HYPERVISOR_xenpmu_op, operation, NOT_MAPPED) == -EOPNOTSUPP
    assert not caplog.records
