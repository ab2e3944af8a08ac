# SPDX-License-Identifier: GPL-2.0-or-later
"""What a network card can be connected to, with real guests: the host through passt, and each
other through a switch."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from guest import StartGuest

pytestmark = [pytest.mark.guest, pytest.mark.slow]

SIZE = 3_000_000


@contextmanager
def server(answer: bytes, address: str = "127.0.0.1") -> Iterator[tuple[int, list[bytes]]]:
    """A web server on the host, with one file: the port, and what each asker sent."""
    received: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            received.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((address, 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield listener.server_port, received
        finally:
            listener.shutdown()
            thread.join()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@pytest.mark.usefixtures("passt")
def test_the_hosts_network(start_cloud: StartGuest, tmp_path: Path) -> None:
    """A card that may reach the host's loopback, and one that may not."""
    record = tmp_path / "card.pcap"
    forwarded = free_port()
    data = os.urandom(SIZE // 2).hex().encode()  # busybox sends files up to the first zero
    cards = [
        f"user,host-loopback,hostfwd=tcp:{forwarded}:80,pcap={record}",
        "user,mtu=1500",
    ]
    with server(data) as (port, received):
        guest = start_cloud(*(word for card in cards for word in ("--net", card)))
        guest.open_shell()
        guest.check("udhcpc -n -q -O mtu")
        shown = guest.check("ip addr show eth0; ip route; cat /etc/resolv.conf")
        assert " mtu 65520 " in shown
        assert "inet 10.0.2.15/24 " in shown
        assert "default via 10.0.2.2 dev eth0" in shown

        # From the host, to the host, and from outside into the guest.
        digest = hashlib.sha256(data).hexdigest()
        guest.check(f"wget -q -O /tmp/data http://10.0.2.2:{port}/")
        assert guest.check("sha256sum </tmp/data") == f"{digest}  -"
        guest.check(f"wget -q -O /dev/null --post-file /tmp/data http://10.0.2.2:{port}/")
        guest.check("httpd -h /tmp")
        connection = http.client.HTTPConnection("127.0.0.1", forwarded, timeout=60)
        connection.request("GET", "/data")
        assert connection.getresponse().read() == data
        connection.close()

        # The other card does not lead there, by whatever name.
        guest.check("ip link set eth0 down; ip addr flush dev eth0; udhcpc -n -q -i eth1")
        assert "default via 10.0.2.2 dev eth1" in guest.check("ip route")
        assert guest.run(f"nc -w 3 10.0.2.2 {port} </dev/null").status != 0
        guest.send_line("poweroff -f")
        assert guest.process.wait(60) == 0
        assert received == [b"", data]
    if shutil.which("tcpdump") is not None:
        with open(record, "rb") as file:
            shown = subprocess.run(
                ["tcpdump", "-nn", "-r", "-"],
                stdin=file,
                capture_output=True,
                text=True,
                check=True,
            )
        assert len(shown.stderr.splitlines()) == 1
        assert "BOOTP/DHCP, Request" in shown.stdout
        assert "10.0.2.15.80 > 10.0.2.2." in shown.stdout


def test_two_guests_on_a_switch(start_cloud: StartGuest, tmp_path: Path) -> None:
    environment = {"PYXEN_RUN": str(tmp_path / "run")}
    one, two = (
        start_cloud("--name", name, "--net", "switch=lan", environment=environment)
        for name in ("one", "two")
    )
    for guest, address in ((one, "198.51.100.1"), (two, "198.51.100.2")):
        guest.open_shell()
        guest.check(f"ip link set eth0 up; ip addr add {address}/24 dev eth0")
    assert " 0% packet loss" in one.check("ping -c 20 -i 0.05 198.51.100.2")
    two.check(f"head -c {SIZE} /dev/urandom >/tmp/data; httpd -h /tmp")
    one.check("wget -q -O /tmp/data http://198.51.100.2/data")
    assert one.check("sha256sum </tmp/data") == two.check("sha256sum </tmp/data")

    # One that is killed is in nobody's way.
    two.process.kill()
    assert "100% packet loss" in one.run("ping -c 1 -W 1 198.51.100.2").output


@pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="there is no /dev/net/tun")
def test_a_bridge(own_network: Any, start_cloud: StartGuest) -> None:
    """Large segments pass both ways between the guest and the host's kernel."""
    own_network.link("add", ifname="xenbr0", kind="bridge")
    (bridge,) = own_network.link_lookup(ifname="xenbr0")
    own_network.link("set", index=bridge, state="up")
    own_network.addr("add", index=bridge, address="198.51.100.1", prefixlen=24)
    data = os.urandom(SIZE // 2).hex().encode()
    digest = hashlib.sha256(data).hexdigest()
    with server(data, "198.51.100.1") as (port, received):
        guest = start_cloud("--net", "bridge=xenbr0", "--stats-json", "/dev/stderr")
        guest.open_shell()
        guest.check("ip link set eth0 up; ip addr add 198.51.100.2/24 dev eth0")
        guest.check(f"wget -q -O /tmp/data http://198.51.100.1:{port}/")
        assert guest.check("sha256sum </tmp/data") == f"{digest}  -"
        guest.check(f"wget -q -O /dev/null --post-file /tmp/data http://198.51.100.1:{port}/")
        guest.send_line("poweroff -f")
        assert guest.process.wait(60) == 0
        assert received == [b"", data]
    card = json.loads(guest.error)["devices"]["vif-0"]
    frames = card["tx_packets"] + card["rx_packets"]
    assert frames < 2 * SIZE / 1448  # so many segments there are, without the answers
    assert not own_network.link_lookup(ifname="vif1.0")
