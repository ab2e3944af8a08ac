# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole Debian on its disk: login, network, packages, ssh, and a file system that stays whole."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from guest import Guest, StartGuest
from package_source import guest_source

from pyxen.toolstack import images

pytestmark = [pytest.mark.guest, pytest.mark.slow]

LOGIN_LIMIT = 400.0
"""Until there is a login. systemd and cloud-init take 30 to 60 seconds on an idle machine."""
APT_LIMIT = 400.0
PASSWORD = "see the seed"
needs_passt = pytest.mark.skipif(not shutil.which("passt"), reason="no passt on this machine")


def log_in(guest: Guest, host_name: str, password: str | None = None) -> None:
    """Log in as root at the console, to a shell that neither prompts nor echoes."""
    guest.expect(f"{host_name} login: ", LOGIN_LIMIT)
    guest.send_line("root")
    if password is not None:
        guest.expect("Password: ")
        guest.send_line(password)
    guest.expect(rf"root@{host_name}:~# ")
    # bash would edit each line.
    guest.send_line("exec sh")
    guest.send_line("dmesg -n 1; stty -echo; PS1= PS2=")
    guest.send_line("printf '[%s]' ready")
    guest.expect(r"\[ready\]")
    # What is still being started writes to the console, too.
    guest.run("systemctl is-system-running --wait", LOGIN_LIMIT)


def power_off(guest: Guest) -> None:
    guest.send_line("poweroff")
    assert guest.wait(120) == 0


def check_file_system(disk: Path) -> None:
    """What the guest left must need no repair, not even of its journal."""
    result = subprocess.run(
        ["/sbin/e2fsck", "-fn", disk], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    header = subprocess.run(
        ["/sbin/dumpe2fs", "-h", disk], capture_output=True, text=True, check=True
    ).stdout
    assert "needs_recovery" not in header


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def make_key(folder: Path) -> Path:
    key = folder / "key"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key]
    subprocess.run(command, check=True)
    return key


def test_an_image_with_a_disk_boots_to_a_login(
    start_guest: StartGuest, debian_disk_image: images.Image
) -> None:
    assert debian_disk_image.disk is not None
    before = debian_disk_image.disk.stat().st_mtime_ns
    guest = start_guest("--image", debian_disk_image.name)

    log_in(guest, "debian")
    assert guest.check("systemctl is-system-running") == "running"
    assert guest.check("systemd-detect-virt") == "xen"
    assert guest.check("findmnt -no SOURCE,FSTYPE /") == "/dev/xvda ext4"
    guest.check("echo changed >/etc/motd && sync")
    power_off(guest)

    # It worked on a copy.
    assert debian_disk_image.disk.stat().st_mtime_ns == before
    check_file_system(debian_disk_image.disk)


@needs_passt
def test_a_seed_a_network_packages_and_ssh(
    start_guest: StartGuest, debian_disk_image: images.Image, tmp_path: Path
) -> None:
    disk, port, key = tmp_path / "disk", free_port(), make_key(tmp_path)
    images.copy_disk(debian_disk_image.name, disk)
    with guest_source(tmp_path, debian_disk_image) as source:
        guest = start_guest(
            *("--image", debian_disk_image.name, "--disk", f"{disk},raw,xvda,rw"),
            *("--net", f"user,hostfwd=tcp:{port}:22{source.net_options}"),
            *("--hostname", "box", "--password", PASSWORD, "--ssh-key", f"{key}.pub"),
        )
        log_in(guest, "box", PASSWORD)
        # cloud-init has found nothing to complain about in its configuration and ours.
        assert guest.check("cloud-init status") == "status: done"
        assert "10.0.2.15/24" in guest.check("ip -4 -brief address show scope global")

        # Descriptions of packages in other languages would take as long as all else.
        if source.lines:
            guest.check(f"echo '{source.lines}' >/etc/apt/sources.list")
        guest.check("apt-get -o Acquire::Languages=none update", APT_LIMIT)
        guest.check(f"apt-get install -qq -y {source.package} </dev/null", APT_LIMIT)
        assert guest.check(source.command) == source.output

        options = ("StrictHostKeyChecking=no", f"UserKnownHostsFile={tmp_path}/hosts")
        words = [word for option in (*options, "ConnectTimeout=60") for word in ("-o", option)]
        ssh = subprocess.run(
            ["ssh", "-p", str(port), "-i", key, *words, "root@127.0.0.1", "hostname; wc -c"],
            input="x" * 100_000,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ssh.stdout == "box\n100000\n", ssh.stderr
        power_off(guest)
    check_file_system(disk)
