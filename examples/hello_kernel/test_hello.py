# SPDX-License-Identifier: GPL-2.0-or-later
"""How a test of a kernel looks: pytest finds ``xen_domain`` where pyxen is installed."""

from pathlib import Path

from pyxen.testing.kernels import build_kernel


def test_hello(xen_domain):
    domain = xen_domain(kernel=build_kernel(Path(__file__).parent / "hello.c"), memory=8)
    version = domain.console.expect(r"hello from a kernel on Xen (\d+\.\d+)")[1]
    assert version == "4.17"
    domain.console.expect("the timer rang")
    assert domain.wait() == "poweroff"
