# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest is told at its first start: its name, a password, keys of ssh.

Guests with cloud-init look for a disk with the label `cidata`, which holds two files (the data
source *NoCloud*). `meta-data` says which instance this is and what it is called. `user-data` says
what to do; it begins with `#cloud-config` and is YAML (of which JSON is a part), or with `#!` and
is a script, or is a MIME message with several such parts. cloud-init does most of it once for an
instance: the number of ours depends on the content, so that another seed is obeyed anew.

Reference: cloud-init's documentation, "NoCloud" and "User-data formats".
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from pathlib import Path
from typing import Any, BinaryIO, Final

from msgspec import Struct

from pyxen.errors import PyxenError

LABEL: Final = "cidata"
_HOSTNAME: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
_KEY: Final = re.compile(r"(ssh-|ecdsa-|sk-)[a-zA-Z0-9@.-]+ [A-Za-z0-9+/]+=*( .*)?")
# The first line of user data says what it is, see "User-data formats".
_KINDS: Final = {
    "#cloud-config": "text/cloud-config",
    "#!": "text/x-shellscript",
    "#include": "text/x-include-url",
    "#cloud-boothook": "text/cloud-boothook",
}


class Seed(Struct, frozen=True):
    """What the guest is told. ``password`` is that of root, ``ssh_keys`` are lines as in
    ``authorized_keys``, for root and for the user that the distribution's images have.
    ``user_data`` is done besides."""

    hostname: str = ""
    password: str = ""
    ssh_keys: tuple[str, ...] = ()
    user_data: str = ""

    def __bool__(self) -> bool:
        return self != Seed()


def read_seed(
    hostname: str | None,
    password: str | None,
    key_files: Sequence[Path],
    user_data: Path | None,
) -> Seed:
    """Check what a user asks for, and read the files.

    Raises:
        PyxenError: a file that cannot be read, or is not what it should be; a bad name.
    """
    if hostname is not None and not _HOSTNAME.fullmatch(hostname):
        raise PyxenError(f"hostname: {hostname!r} is not the name of a host")
    if password == "":
        raise PyxenError("password: it is empty")
    return Seed(
        hostname=hostname or "",
        password=password or "",
        ssh_keys=tuple(key for file in key_files for key in _keys(file)),
        user_data=_user_data(user_data) if user_data is not None else "",
    )


def write_seed(stream: BinaryIO, seed: Seed) -> None:
    """Write the disk: an ISO 9660 file system with the two files."""
    from pycdlib import PyCdlib

    user_data = _whole_user_data(seed).encode()
    meta_data = _meta_data(seed, user_data).encode()
    iso = PyCdlib()
    # Rock Ridge and Joliet: the names as they are, for whichever the guest's kernel prefers.
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    for name, data in (("meta-data", meta_data), ("user-data", user_data)):
        plain = name.upper().replace("-", "_")
        iso.add_fp(
            io.BytesIO(data), len(data), f"/{plain}.;1", rr_name=name, joliet_path=f"/{name}"
        )
    iso.write_fp(stream)
    iso.close()


def _keys(file: Path) -> list[str]:
    lines = [line.strip() for line in _text(file).splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys or not all(_KEY.fullmatch(key) for key in keys):
        hint = ": that is a private one, name the .pub" if "PRIVATE KEY" in "".join(lines) else ""
        raise PyxenError(f"{file}: no public key of ssh{hint}")
    return keys


def _user_data(file: Path) -> str:
    text = _text(file)
    if _kind(text) is None:
        raise PyxenError(f"{file}: no user data: it must begin with {', '.join(_KINDS)}")
    return text


def _kind(user_data: str) -> str | None:
    return next((kind for start, kind in _KINDS.items() if user_data.startswith(start)), None)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise PyxenError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PyxenError(f"{file}: no text") from error


def _meta_data(seed: Seed, user_data: bytes) -> str:
    digest = hashlib.sha256(seed.hostname.encode() + b"\0" + user_data).hexdigest()
    meta = {"instance-id": f"pyxen-{digest[:16]}"}
    if seed.hostname:
        meta["local-hostname"] = seed.hostname
    return json.dumps(meta, indent=2) + "\n"


def _whole_user_data(seed: Seed) -> str:
    own = "#cloud-config\n" + json.dumps(_cloud_config(seed), indent=2) + "\n"
    if not seed.user_data:
        return own
    message = MIMEMultipart(boundary="====pyxen====")
    for text in (own, seed.user_data):
        kind = _kind(text)
        assert kind is not None
        message.attach(MIMEText(text, kind.removeprefix("text/"), "utf-8"))
    return message.as_string()


def _cloud_config(seed: Seed) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if seed.hostname:
        config["hostname"] = seed.hostname
    if seed.password:
        user = {"name": "root", "password": seed.password, "type": "text"}
        config["chpasswd"] = {"expire": False, "users": [user]}
    if seed.ssh_keys:
        config["ssh_authorized_keys"] = list(seed.ssh_keys)
        config["disable_root"] = False
    return config
