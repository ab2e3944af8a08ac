# SPDX-License-Identifier: GPL-2.0-or-later
"""xl's disk syntax. The examples are those of xl-disk-configuration(5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyxen.errors import PyxenError
from pyxen.toolstack.devices.disk import DiskConfig, parse_disk, virtual_device_number
from pyxen.toolstack.devices.rate import RateLimit

HDA = 3 << 8
HDC = 22 << 8
XVDA = 202 << 8


@pytest.mark.parametrize(
    "spec",
    [
        "/dev/vg/guest-volume,,hda",
        "/dev/vg/guest-volume,raw,hda,rw",
        "format=raw, vdev=hda, access=rw, target=/dev/vg/guest-volume",
        "raw:/dev/vg/guest-volume,hda,w",
    ],
)
def test_equal_disks(spec: str) -> None:
    assert parse_disk(spec) == DiskConfig("/dev/vg/guest-volume", "raw", "hda", HDA)


@pytest.mark.parametrize(
    "spec",
    [
        "/root/image.iso,,hdc,cdrom",
        "/root/image.iso,,hdc,,cdrom",
        "/root/image.iso,raw,hdc,devtype=cdrom",
        "format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/root/image.iso",
        "raw:/root/image.iso,hdc:cdrom,ro",
    ],
)
def test_equal_cd_drives(spec: str) -> None:
    expected = DiskConfig("/root/image.iso", "raw", "hdc", HDC, readonly=True, cdrom=True)
    assert parse_disk(spec) == expected


@pytest.mark.parametrize("spec", [",hdc:cdrom,r", "vdev=hdc,cdrom", ",,hdc,,cdrom"])
def test_a_drive_without_a_medium(spec: str) -> None:
    assert parse_disk(spec) == DiskConfig("", "empty", "hdc", HDC, readonly=True, cdrom=True)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("file.img,raw,xvda,rw", DiskConfig("file.img", "raw", "xvda", XVDA)),
        ("a,qcow2,xvdb,ro", DiskConfig("a", "qcow2", "xvdb", XVDA + 16, readonly=True)),
        ("tap:aio:/a,xvda,w", DiskConfig("/a", "raw", "xvda", XVDA)),
        ("tap:qcow2:/a,xvda,w", DiskConfig("/a", "qcow2", "xvda", XVDA)),
        ("vdev=xvda,target=/a,b=c, d", DiskConfig("/a,b=c, d", "raw", "xvda", XVDA)),
        ("/a,,xvda,no-discard", DiskConfig("/a", "raw", "xvda", XVDA, discard=False)),
        ("/a,,xvda,untrusted", DiskConfig("/a", "raw", "xvda", XVDA, trusted=False)),
        ("/a,,xvda,direct-io-safe", DiskConfig("/a", "raw", "xvda", XVDA, direct_io_safe=True)),
        ("/a,,xvda,backendtype=qdisk,backend=0", DiskConfig("/a", "raw", "xvda", XVDA)),
        ("/a,,xvda,cache=writethrough", DiskConfig("/a", "raw", "xvda", XVDA, writethrough=True)),
        ("/a,,xvda,sector-size=4096", DiskConfig("/a", "raw", "xvda", XVDA, sector_size=4096)),
        (
            "/a,,xvda,rate=10MB/s",
            DiskConfig("/a", "raw", "xvda", XVDA, rate=RateLimit(500_000, 50_000)),
        ),
    ],
)
def test_disks(spec: str, expected: DiskConfig) -> None:
    assert parse_disk(spec) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "no vdev"),
        ("/a", "no vdev"),
        (",,xvda", "no target"),
        ("/a,raw,xvda,rw,more", "too many parameters by position"),
        ("/a,raw,xvda,x", "access: 'x' is none of ro, r, rw, w"),
        ("/a,iso,xvda", "format: 'iso' is none of raw"),
        ("/a,raw,vda", "vdev: 'vda' is no name of a disk"),
        ("/a,raw,xvda,vdev=xvdb", "vdev is given twice"),
        ("/a,raw,xvda,colour=red", "unknown parameter 'colour'"),
        ("/a,raw,xvda,script=x", "script: pyxen runs no hotplug scripts"),
        ("nbd:/a,xvda,w", "nbd needs a hotplug script"),
        ("/a,raw,xvda,backend=storage", "backend: pyxen serves its disks itself"),
        ("/a,raw,xvda,specification=virtio", "specification: virtio"),
        ("/a,raw,xvda,devtype=tape", "devtype: 'tape' is none of disk, cdrom"),
        ("/a,raw,xvda,rate=fast", "rate: 'fast' is not like"),
        ("/a,raw,xvda,sector-size=1024", "sector-size: '1024' is none of 512, 4096"),
    ],
)
def test_refused_disks(spec: str, message: str) -> None:
    with pytest.raises(PyxenError) as error:
        parse_disk(spec)
    assert str(error.value).startswith(f"disk {spec!r}: {message}")


@given(st.text(max_size=60) | st.text("=,:/ axvdrow0target", max_size=40))
def test_any_text_is_a_disk_or_an_error(spec: str) -> None:
    try:
        config = parse_disk(spec)
    except PyxenError:
        return
    assert config.vdev
    assert 0 <= config.number < 1 << 31


@pytest.mark.parametrize(
    ("vdev", "number"),
    [
        ("xvda", 202 << 8),
        ("d0", None),
        ("d0p0", 202 << 8),
        ("xvdb2", 202 << 8 | 1 << 4 | 2),
        ("d1p2", 202 << 8 | 1 << 4 | 2),
        ("xvdp15", 202 << 8 | 15 << 4 | 15),
        ("xvdq", 1 << 28 | 16 << 8),
        ("xvda16", 1 << 28 | 16),
        ("xvdtq37", 1 << 28 | 536 << 8 | 37),
        ("d536p37", 1 << 28 | 536 << 8 | 37),
        ("xvda256", None),
        ("xvda01", None),
        ("xvdzzzzzzzzzzzzz", None),
        ("d1048576p0", None),
        ("sdb3", 8 << 8 | 1 << 4 | 3),
        ("sdp15", 8 << 8 | 15 << 4 | 15),
        ("sdq", None),
        ("sda16", None),
        ("hdb", 3 << 8 | 1 << 6),
        ("hdc2", 22 << 8 | 2),
        ("hdd63", 22 << 8 | 1 << 6 | 63),
        ("hde", None),
        ("51712", 51712),
        ("0xca00", 51712),
        ("0145000", 51712),
        ("08", None),
        ("2147483648", None),
        ("", None),
    ],
)
def test_numbers_of_disks(vdev: str, number: int | None) -> None:
    if number is None:
        with pytest.raises(PyxenError):
            virtual_device_number(vdev)
    else:
        assert virtual_device_number(vdev) == number


def test_nodes_of_a_disk() -> None:
    config = parse_disk("/a,raw,xvda,ro")
    assert config.backend_nodes()["mode"] == "r"
    assert config.backend_nodes()["params"] == "raw:/a"
    assert config.frontend_nodes()["virtual-device"] == "51712"
