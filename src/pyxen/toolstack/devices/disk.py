# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks as xl's users write them: ``/images/root.img,raw,xvda,rw``.

A specification is a list with commas: up to four parameters by position (target, format, vdev,
access), others by name, and flags. ``target=`` takes all that follows. Five names are pyxen's own:
``cache=writeback`` or ``writethrough``, ``sector-size=512`` or ``4096``, ``persistent-grants=1``,
``rate=`` as for network cards, and ``iops=``, requests in a second. A target that is no absolute
path is taken from the working directory; xl would look in ``/dev``.

The *vdev* names the disk to the guest, which is told a number: ``xvda`` is 202 << 8, as Linux's
device numbers once were. Reference: ``xl-disk-configuration(5)``, ``xen-vbd-interface(7)``.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from pyxen.errors import PyxenError
from pyxen.toolstack.devices.rate import RateLimit, parse_rate

FORMATS: Final = ("raw", "qcow", "qcow2", "qed", "vhd", "vmdk", "empty")
_BACKEND_TYPES: Final = ("phy", "qdisk", "tap", "standalone")
_POSITIONS: Final = ("target", "format", "vdev", "access")
_ACCESS: Final = {"": False, "rw": False, "w": False, "ro": True, "r": True}
_FLAGS: Final = {
    "cdrom": ("devtype", "cdrom"),
    "direct-io-safe": ("direct-io-safe", "1"),
    "discard": ("discard", "1"),
    "no-discard": ("discard", ""),
    "trusted": ("trusted", "1"),
    "untrusted": ("trusted", ""),
    "no-colo": ("colo", ""),
}
_KEYS: Final = (
    *_POSITIONS,
    "devtype",
    "backend",
    "backendtype",
    "script",
    "specification",
    "cache",
    "iops",
    "persistent-grants",
    "rate",
    "sector-size",
)
_PREFIX: Final = re.compile(r"(raw|qcow2?|vhd|tapdisk|tap2?|aio|ioemu|file|phy):")
_SCRIPT_PREFIX: Final = re.compile(r"(iscsi|e?nbd|drbd):")

_XVD: Final = re.compile(r"xvd([a-z]+)([1-9][0-9]*)?")
_D_P: Final = re.compile(r"d([0-9]+)p([0-9]+)")
_HD: Final = re.compile(r"hd([a-d])([1-9][0-9]*)?")
_SD: Final = re.compile(r"sd([a-p])([1-9][0-9]*)?")
_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")
_INT_MAX: Final = (1 << 31) - 1


class DiskConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """One disk. ``target`` is a path; it is empty for a CD drive without a medium, whose
    ``image_format`` is "empty". ``number`` is the vdev as the guest sees it."""

    target: str
    image_format: str
    vdev: str
    number: int
    readonly: bool = False
    cdrom: bool = False
    discard: bool = True
    trusted: bool = True
    direct_io_safe: bool = False
    writethrough: bool = False
    sector_size: int = 512
    persistent: bool = False
    rate: RateLimit | None = None
    iops: int | None = None

    def backend_nodes(self) -> dict[str, str]:
        """What the tool stack writes for the back end, as libxl does."""
        nodes = {
            "params": f"{self.image_format}:{self.target}",
            "removable": str(int(self.cdrom)),
            "bootable": "1",
            "dev": self.vdev,
            "type": "qdisk",
            "mode": "r" if self.readonly else "w",
            "device-type": "cdrom" if self.cdrom else "disk",
            "discard-enable": str(int(self.discard)),
            "specification": "xen",
        }
        if self.direct_io_safe:
            nodes["direct-io-safe"] = "1"
        return nodes

    def frontend_nodes(self) -> dict[str, str]:
        """The same for the front end."""
        return {
            "virtual-device": str(self.number),
            "device-type": "cdrom" if self.cdrom else "disk",
            "trusted": str(int(self.trusted)),
            "protocol": "x86_64-abi",
        }

    def readonly_nodes(self) -> dict[str, str]:
        """Those of the front end's that the guest may not change."""
        return {}


def parse_disk(spec: str) -> DiskConfig:
    """Raises PyxenError for what xl would refuse, or what pyxen cannot do."""
    try:
        return _config(_parameters(spec))
    except PyxenError as error:
        raise PyxenError(f"disk {spec!r}: {error}") from None


def _parameters(spec: str) -> dict[str, str]:
    """Names and values, with what was given by position under its name."""
    found: dict[str, str] = {}
    rest = spec.lstrip(" \t\n")
    while rest:
        if rest.startswith("target="):
            _set(found, "target", rest.removeprefix("target="))
            break
        word, comma, rest = rest.partition(",")
        if comma or word:
            _take(found, word)
        rest = rest.lstrip(" \t\n")
    return found


def _take(found: dict[str, str], word: str) -> None:
    key, equals, value = word.partition("=")
    if word in _FLAGS:
        key, value = _FLAGS[word]
        found[key] = value
    elif equals:
        if key not in _KEYS:
            raise PyxenError(f"unknown parameter {key!r}")
        _set(found, key, value)
    else:
        _take_positional(found, word)


def _set(found: dict[str, str], key: str, value: str) -> None:
    """An empty value leaves the parameter as good as unset."""
    if found.get(key):
        raise PyxenError(f"{key} is given twice")
    found[key] = value


def _take_positional(found: dict[str, str], word: str) -> None:
    """The next parameter that has no value, with xl's old prefixes and suffixes."""
    if "target" not in found:
        found["target"] = _strip_prefixes(found, word)
        return
    for name in _POSITIONS[1:]:
        if name not in found:
            break
    else:
        raise PyxenError("too many parameters by position")
    if ":" in word and (name == "vdev" or (name == "format" and not found["target"])):
        word, _, devtype = word.rpartition(":")
        found["format"] = found.get("format", "empty")
        found["devtype"] = devtype
        name = "vdev"
    found[name] = word


def _strip_prefixes(found: dict[str, str], target: str) -> str:
    """``raw:/path`` and the like. A format that is so given needs no position."""
    while match := _PREFIX.match(target):
        target = target[match.end() :]
        kind = match[1] if match[1] in FORMATS else "raw"
        found["format"] = kind if found.get("format", "raw") == "raw" else found["format"]
    if match := _SCRIPT_PREFIX.match(target):
        raise PyxenError(f"{match[1]} needs a hotplug script, which pyxen does not run")
    return target


def _config(given: dict[str, str]) -> DiskConfig:
    cdrom = _one_of(given, "devtype", ("disk", "cdrom")) == "cdrom"
    target = given.get("target", "")
    image_format = _one_of(given, "format", FORMATS)
    if cdrom and not target:
        image_format = "empty"
    vdev = given.get("vdev", "")
    if not vdev:
        raise PyxenError("no vdev, such as xvda")
    if not target and not cdrom:
        raise PyxenError("no target")
    access = given.get("access", "")
    if access not in _ACCESS:
        raise PyxenError(f"access: {access!r} is none of ro, r, rw, w")
    _refuse_foreign(given)
    return DiskConfig(
        target=target,
        image_format=image_format,
        vdev=vdev,
        number=virtual_device_number(vdev),
        readonly=cdrom or _ACCESS[access],
        cdrom=cdrom,
        discard=bool(given.get("discard", "1")),
        trusted=bool(given.get("trusted", "1")),
        direct_io_safe="direct-io-safe" in given,
        writethrough=_one_of(given, "cache", ("writeback", "writethrough")) == "writethrough",
        sector_size=int(_one_of(given, "sector-size", ("512", "4096"))),
        persistent=_one_of(given, "persistent-grants", ("0", "1")) == "1",
        rate=parse_rate(given["rate"]) if given.get("rate") else None,
        iops=_parse_iops(given["iops"]) if given.get("iops") else None,
    )


def _parse_iops(text: str) -> int:
    """Requests in a second."""
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text)):
        raise PyxenError(f"iops: {text!r} is no number of requests in a second")
    return int(text)


def _one_of(given: dict[str, str], key: str, values: tuple[str, ...]) -> str:
    """A value out of a list whose first is the default."""
    value = given.get(key, "") or values[0]
    if value not in values:
        raise PyxenError(f"{key}: {value!r} is none of {', '.join(values)}")
    return value


def _refuse_foreign(given: dict[str, str]) -> None:
    """What xl can do and pyxen cannot."""
    if given.get("backendtype") and given["backendtype"] not in _BACKEND_TYPES:
        raise PyxenError(f"backendtype: {given['backendtype']!r} is unknown")
    if given.get("backend", "0") not in ("", "0", "Domain-0"):
        raise PyxenError("backend: pyxen serves its disks itself, as domain 0")
    if given.get("script"):
        raise PyxenError("script: pyxen runs no hotplug scripts")
    if _one_of(given, "specification", ("xen", "virtio")) == "virtio":
        raise PyxenError("specification: virtio is for other kinds of guests")


def virtual_device_number(vdev: str) -> int:
    """The number by which a guest knows a disk. Raises PyxenError."""
    if match := _XVD.fullmatch(vdev):
        disk = 0
        for letter in match[1][:8]:
            disk = disk * 26 + ord(letter) - ord("a") + 1
        return _xen_disk(vdev, disk - 1, int(match[2] or 0))
    if match := _D_P.fullmatch(vdev):
        return _xen_disk(vdev, int(match[1]), int(match[2]))
    if match := _HD.fullmatch(vdev):
        disk, partition = ord(match[1]) - ord("a"), int(match[2] or 0)
        if partition <= 63:
            return (3 if disk < 2 else 22) << 8 | (disk & 1) << 6 | partition
    if match := _SD.fullmatch(vdev):
        disk, partition = ord(match[1]) - ord("a"), int(match[2] or 0)
        if partition <= 15:
            return 8 << 8 | disk << 4 | partition
    if _NUMBER.fullmatch(vdev):
        octal = len(vdev) > 1 and vdev[0] == "0" and vdev.isdigit()
        if not (octal and set(vdev) & {"8", "9"}):
            number = int(vdev, 8) if octal else int(vdev, 0)
            if number <= _INT_MAX:
                return number
    raise PyxenError(f"vdev: {vdev!r} is no name of a disk, such as xvda or sdb1")


def _xen_disk(vdev: str, disk: int, partition: int) -> int:
    if disk >= 1 << 20 or partition > 255:
        raise PyxenError(f"vdev: {vdev!r} is beyond disk {(1 << 20) - 1} or partition 255")
    if disk <= 15 and partition <= 15:
        return 202 << 8 | disk << 4 | partition
    return 1 << 28 | disk << 8 | partition
