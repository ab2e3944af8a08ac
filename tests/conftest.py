# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures that tests of several packages use."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from machine import Machine
from pyxen.errors import PyxenError
from pyxen.testing import kernels
from pyxen.toolstack import images

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

CLONE_NEWNET = 0x40000000
SOURCE = Path(__file__).parent.parent / "src"
ONE_PROCESS = ("test_guest_stress.py", "test_guest_xencheck.py")
"""Files whose tests share guests: with pytest-xdist, one process runs all of a file."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file.endswith(ONE_PROCESS) else nodeid

    return Scheduling(config, log)


def pytest_sessionstart() -> None:
    # A script that starts us with "&" has it ignored, and so would all that we start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Python takes a compiled module before the .py: the tests would test what is no longer there.
    stale = [
        str(source.relative_to(SOURCE))
        for built in sorted(SOURCE.rglob("*.so"))
        for suffix in (".py", ".pyx", ".pxd")
        if (source := built.with_name(built.name.partition(".")[0] + suffix)).exists()
        and source.stat().st_mtime > built.stat().st_mtime
    ]
    if stale:
        pytest.exit(
            f"compiled parts are older than their sources: run `make build` ({', '.join(stale)})",
            pytest.ExitCode.USAGE_ERROR,
        )


def _image(name: str) -> images.Image:
    # In the user's own data folder, which `make demo` uses too. Pulling holds a lock, and returns
    # what is there already: parallel test processes download once.
    try:
        return images.pull_image(name)
    except PyxenError as error:
        pytest.skip(f"no image {name}: {error}")


@pytest.fixture(scope="module")
def own_host() -> Iterator[None]:
    """Folders of its own for tests that make domains in this process's name."""
    # Not pytest's folder, whose name may be longer than a socket's path can be.
    with (
        tempfile.TemporaryDirectory(prefix="pyxen-test-") as folder,
        pytest.MonkeyPatch.context() as monkeypatch,
    ):
        monkeypatch.setenv("PYXEN_RUN", f"{folder}/run")
        monkeypatch.setenv("XDG_STATE_HOME", f"{folder}/state")
        yield


@pytest.fixture(scope="session")
def lifecycle_kernel() -> Path:
    """The kernel of guests/lifecycle, which does as its command line says."""
    try:
        return kernels.build_kernel(SOURCE.parent / "guests" / "lifecycle" / "lifecycle.c")
    except kernels.BuildToolsMissing as error:
        pytest.skip(str(error))


@pytest.fixture
def own_machine() -> Iterator[Machine]:
    """A host of its own, on which commands make domains."""
    with Machine() as machine:
        yield machine


@pytest.fixture(scope="session")
def debian_image() -> images.Image:
    """Debian's generic kernel with pyxen's initramfs."""
    return _image("debian")


@pytest.fixture(scope="session")
def debian_cloud_image() -> images.Image:
    """Debian's cloud kernel with pyxen's initramfs."""
    return _image("debian-cloud")


@pytest.fixture(scope="session")
def passt() -> None:
    """Skips where there is no passt, or where it may not do what it needs, as in containers."""
    program = shutil.which("passt")
    if program is None:
        pytest.skip("there is no passt")
    ours, theirs = socket.socketpair()
    ours.close()  # it ends at once
    options = [
        "--foreground",
        "--interface",
        "lo",
        "--address",
        "10.0.2.15",
        "--gateway",
        "10.0.2.2",
    ]
    options += ["--mac-addr", "52:55:0a:00:02:02", "--fd", str(theirs.fileno())]
    with theirs:
        tried = subprocess.run(
            [program, *options],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    if tried.returncode:
        pytest.skip(f"passt does not run here: {tried.stderr.decode(errors='replace')[-200:]}")


@pytest.fixture
def own_network() -> Iterator[Any]:
    """Netlink of a network namespace that this thread is in for as long as the test runs, as root
    alone can be."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    if os.geteuid() != 0:
        pytest.skip("this takes root")
    libc = ctypes.CDLL(None, use_errno=True)
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if libc.unshare(CLONE_NEWNET):
        os.close(outside)
        pytest.skip(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    try:
        with IPRoute() as ip:
            ip.link("set", index=1, state="up")
            try:
                ip.link("add", ifname="probe", kind="bridge")
            except NetlinkError as error:
                pytest.skip(f"no bridges: {os.strerror(error.code)}")
            ip.link("del", ifname="probe")
            yield ip
    finally:
        assert libc.setns(outside, CLONE_NEWNET) == 0
        os.close(outside)


@pytest.fixture(scope="session")
def debian_disk_image() -> images.Image:
    """A whole Debian on a disk."""
    return _image("debian-disk")
