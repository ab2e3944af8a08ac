# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a guest gets a package from: this machine's own source, or else a server of the test's."""

from __future__ import annotations

import functools
import hashlib
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pyxen.toolstack import images
from pyxen.toolstack.images.packages import Apt
from pyxen.toolstack.images.sources import machine_sources

HOST_IN_GUEST = "10.0.2.2"


@dataclass(frozen=True)
class GuestSource:
    """A package to install, a command of its, and what that prints. ``lines`` replace the guest's
    list of sources, if there are any; ``net_options`` its card needs to reach them."""

    package: str
    command: str
    output: str
    lines: str = ""
    net_options: str = ""


@contextmanager
def guest_source(folder: Path, image: images.Image) -> Iterator[GuestSource]:
    """Give a source that a guest of the image can use while the context lasts."""
    if _machine_source_answers():
        yield GuestSource("hello", "hello", "Hello, world!")
        return
    print("this machine's package source does not answer: the test serves a package of its own")
    served = folder / "served"
    served.mkdir()
    _make_repository(served)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://{HOST_IN_GUEST}:{server.server_port}"
            yield GuestSource(
                "own-hello",
                "own-hello",
                "hello from the host",
                lines=f"deb [trusted=yes] {address} ./",
                net_options=",host-loopback",
            )
        finally:
            server.shutdown()
            thread.join()


def _machine_source_answers() -> bool:
    source = machine_sources(Apt()).guest[0]
    try:
        with urllib.request.urlopen(f"{source.uri}/dists/{source.suite}/InRelease", timeout=20):
            return True
    except OSError:
        return False


def _make_repository(folder: Path) -> None:
    """Make a package, and the list that apt wants to see of it."""
    control = (
        "Package: own-hello\nVersion: 1\nArchitecture: all\n"
        "Maintainer: none <none@example.org>\nDescription: a test\n"
    )
    tree = folder / "tree"
    program = tree / "usr/bin/own-hello"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho hello from the host\n")
    program.chmod(0o755)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(control)
    deb = folder / "own-hello.deb"
    build = ["dpkg-deb", "--root-owner-group", "--build", tree, deb]
    subprocess.run(build, check=True, capture_output=True)
    data = deb.read_bytes()
    (folder / "Packages").write_text(
        f"{control}Filename: ./{deb.name}\nSize: {len(data)}\n"
        f"SHA256: {hashlib.sha256(data).hexdigest()}\n\n"
    )
