# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast is a guest's network, beside QEMU's emulator with virtio-net on the same machine?

The same kernel and the same static program run under pyxen (netfront) and under
`qemu-system-x86_64 -accel tcg` on q35 (virtio-net), with one CPU and 256 MiB each. Both are
connected with the host by a passt of their own, with the same options; a server in this script is
at the other end. Measured are a TCP stream each way, with the MTU of Ethernet and with the one that
passt proposes, in MiB per second; and datagrams of 64 bytes each way, and questions with answers,
in thousands per second. What was lost on the way is not counted. The measured runs are interleaved.

The modules that the guests need are taken from the kernel's package, which is fetched with apt, or
from a folder.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from modules import guest_parser, write_guests

from guests import (
    BenchError,
    Contender,
    Figures,
    check_tools,
    circumstances,
    comparison,
    measure,
    medians_of,
    pyxen,
    qemu,
    run_guest,
    run_script,
)
from pyxen.backends.net.links import user

STREAMS = ("stream-out", "stream-in", "stream-out-65520", "stream-in-65520")
MEASURES = (*STREAMS, "questions", "datagrams-out", "datagrams-in")
PEER = "qemu q35"
TARGET = 0.8
"""The least ratio of pyxen's throughput to QEMU's that was promised."""
SOURCE = Path(__file__).parent / "guest" / "net.c"
MODULES = {"pyxen": ("xen-netfront",), PEER: ("virtio-pci", "virtio-net")}
MAC = "00:16:3e:00:00:01"
CHUNK = bytes(1 << 18)
DATAGRAM = bytes(64)
BLAST_SECONDS = 2.2


def main() -> int:
    options = guest_parser("Measure a network card under pyxen and under QEMU.")
    return run_script(options.parse_args(), measure_all, table)


def measure_all(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    check_tools()
    if shutil.which(user.PROGRAM) is None:
        raise BenchError(f"no {user.PROGRAM} here: install your distribution's package of it")
    with Server() as server:
        contenders = prepare(arguments, folder, server.port)
        figures = measure(
            contenders, MEASURES, arguments.runs, lambda contender: read_figures(contender, folder)
        )
    return summary(figures, arguments)


def prepare(arguments: argparse.Namespace, folder: Path, port: int) -> list[Contender]:
    """Build what the guests run, and return how each is started. Raises BenchError."""
    image, vmlinux = write_guests(arguments, folder, SOURCE, MODULES)
    command_line = f"quiet panic=-1 port={port}"
    ours = pyxen(image.kernel, folder / "pyxen", command_line)
    ours.command.extend(["--net", f"user,host-loopback,mac={MAC}"])
    theirs = qemu("q35", vmlinux, folder / PEER, command_line)
    netdev = f"stream,id=net,server=off,addr.type=unix,addr.path={folder}/passt"
    theirs.command.extend(["-netdev", netdev])
    theirs.command.extend(["-device", f"virtio-net-pci,netdev=net,mac={MAC}"])
    return [ours, theirs]


def read_figures(contender: Contender, folder: Path) -> dict[str, float]:
    """Run a guest; what it prints, in MiB per second and thousands per second. Raises BenchError
    if a figure is missing."""
    peer = None
    if contender.name == PEER:
        peer = _start_passt(folder / "passt")
    try:
        _, output = run_guest(contender, ("NET start", "NET done"))
    finally:
        if peer is not None:
            peer.kill()
            peer.wait()
    found = dict(re.findall(r"NET ([a-z0-9-]+) ([0-9]+)", output))
    for name in MEASURES:
        if int(found.get(name, 0)) <= 0:
            raise BenchError(f"{contender.name}: no figure for {name}; it wrote:\n{output}")
    return {name: int(found[name]) / (1024 if name in STREAMS else 1000) for name in MEASURES}


def _start_passt(path: Path) -> subprocess.Popen[bytes]:
    """QEMU's; pyxen starts its own with the same options."""
    path.unlink(missing_ok=True)
    if os.geteuid() == 0:  # it becomes another user then, who must be able to make the socket
        path.parent.chmod(0o777)
    process = subprocess.Popen(
        [user.PROGRAM, *user.arguments((), user.LARGEST_MTU, None), "--socket", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 10
    while not path.exists():
        if process.poll() is not None or time.monotonic() > end:
            raise BenchError(f"{user.PROGRAM} does not start")
        time.sleep(0.01)
    return process


class Server:
    """What the guests talk to, at a port of 127.0.0.1 that is both for TCP and UDP: takes or gives
    streams, answers and counts datagrams, as ``bench/guest/net.c`` asks for."""

    def __enter__(self) -> Server:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._datagrams.bind(("127.0.0.1", self.port))
        self._count = 0
        for work in (self._accept, self._serve_datagrams):
            threading.Thread(target=work, daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        for sock in (self._listener, self._datagrams):
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        buffer = bytearray(len(CHUNK))
        number = 0
        try:
            with connection:
                what = connection.recv(1)
                if what == b"s":
                    while count := connection.recv_into(buffer):
                        number += count
                elif what == b"r":
                    while True:
                        connection.sendall(CHUNK)
                elif what == b"z":
                    self._count = 0
                elif what == b"n":
                    number = self._count
                connection.sendall(struct.pack("<Q", number))
        except OSError:
            return  # the guest has had enough

    def _serve_datagrams(self) -> None:
        while True:
            try:
                self._serve_datagram(*self._datagrams.recvfrom(2048))
            except OSError:
                return  # the end

    def _serve_datagram(self, data: bytes, sender: Any) -> None:
        if data[:1] == b"q":
            self._datagrams.sendto(data, sender)
        elif data[:1] == b"b":
            end = time.monotonic() + BLAST_SECONDS
            while time.monotonic() < end:
                self._datagrams.sendto(DATAGRAM, sender)
        else:
            self._count += 1


def summary(figures: Figures, arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures as data for JSON, and ratios of medians."""
    medians = medians_of(figures)
    ratios = {m: medians["pyxen"][m] / medians[PEER][m] for m in MEASURES}
    missed = [m for m in STREAMS if ratios[m] < TARGET]
    return {
        **circumstances(arguments),
        "figures": figures,
        "medians": medians,
        "ratios": ratios,
        "target": {"of": STREAMS, "at_least": TARGET, "missed": missed},
    }


def table(result: dict[str, Any]) -> str:
    """The figures for people, from what `summary` returns."""
    unit = "MiB/s (streams) and 1000/s"
    lines = comparison(result, result["figures"], PEER, unit, 1)
    missed = ", ".join(result["target"]["missed"]) or "nothing"
    return "\n".join([*lines, "", f"target: streams at least {TARGET}; missed by {missed}"])


if __name__ == "__main__":
    sys.exit(main())
