# SPDX-License-Identifier: GPL-2.0-or-later
"""Seeds: what is in the disk that cloud-init finds."""

from __future__ import annotations

import io
import json
from email import message_from_bytes
from pathlib import Path

import pytest
from pycdlib import PyCdlib

from pyxen.errors import PyxenError
from pyxen.toolstack import images
from pyxen.toolstack.images.seed import Seed, read_seed, write_seed

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO3sIqkXVtPJgd2wIlqeNHl3Vw0QdZ8dwL7ZTzUgP6JX me@here"


def content(disk: bytes) -> dict[str, bytes]:
    """Open the disk as a guest would, by its Rock Ridge and by its Joliet names."""
    iso = PyCdlib()
    iso.open_fp(io.BytesIO(disk))
    assert iso.pvd.volume_identifier.rstrip() == b"cidata"
    found = {}
    for name in ("meta-data", "user-data"):
        by_name = []
        for path in ({"rr_path": f"/{name}"}, {"joliet_path": f"/{name}"}):
            stream = io.BytesIO()
            iso.get_file_from_iso_fp(stream, **path)
            by_name.append(stream.getvalue())
        assert by_name[0] == by_name[1]
        found[name] = by_name[0]
    return found


def written(seed: Seed) -> dict[str, bytes]:
    stream = io.BytesIO()
    write_seed(stream, seed)
    return content(stream.getvalue())


def config(user_data: bytes) -> dict[str, object]:
    first, _, rest = user_data.partition(b"\n")
    assert first == b"#cloud-config"
    return json.loads(rest)  # type: ignore[no-any-return]


def test_name_password_and_keys() -> None:
    files = written(Seed(hostname="box", password='se"cret', ssh_keys=(KEY,)))

    assert json.loads(files["meta-data"])["local-hostname"] == "box"
    assert config(files["user-data"]) == {
        "hostname": "box",
        "chpasswd": {
            "expire": False,
            "users": [{"name": "root", "password": 'se"cret', "type": "text"}],
        },
        "ssh_authorized_keys": [KEY],
        "disable_root": False,
    }


def test_nothing_is_said_of_what_was_not_asked_for() -> None:
    files = written(Seed(password="x"))

    assert list(json.loads(files["meta-data"])) == ["instance-id"]
    assert list(config(files["user-data"])) == ["chpasswd"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("#cloud-config\npackages: [hello]\n", "text/cloud-config"),
        ("#!/bin/sh\necho hello\n", "text/x-shellscript"),
    ],
)
def test_user_data_is_done_besides(text: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(text)
    seed = read_seed("box", None, [], tmp_path / "file")

    message = message_from_bytes(written(seed)["user-data"])
    assert message.get_content_type() == "multipart/mixed"
    own, theirs = message.get_payload()
    assert config(own.get_payload(decode=True)) == {"hostname": "box"}
    assert own.get_content_type() == "text/cloud-config"
    assert (theirs.get_payload(decode=True).decode(), theirs.get_content_type()) == (text, kind)


def test_another_seed_is_another_instance() -> None:
    def instance(seed: Seed) -> str:
        return str(json.loads(written(seed)["meta-data"])["instance-id"])

    assert instance(Seed(password="a")) == instance(Seed(password="a"))
    assert len({instance(Seed(password="a")), instance(Seed(password="b"))}) == 2
    assert instance(Seed(hostname="a")) != instance(Seed(hostname="b"))


def test_keys_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "one").write_text(f"# mine\n{KEY}\n\n{KEY} 2\n")
    (tmp_path / "two").write_text("ecdsa-sha2-nistp256 AAAA")

    keys = read_seed(None, None, [tmp_path / "one", tmp_path / "two"], None).ssh_keys
    assert keys == (KEY, f"{KEY} 2", "ecdsa-sha2-nistp256 AAAA")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no public key of ssh$"),
        ("hello", "no public key of ssh$"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n", "that is a private one, name the .pub$"),
        (f"{KEY}\nhello", "no public key of ssh$"),
        (None, "No such file or directory$"),
    ],
)
def test_a_file_without_keys_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "key").write_text(text)
    with pytest.raises(PyxenError, match=message):
        read_seed(None, None, [tmp_path / "key"], None)


@pytest.mark.parametrize("name", ("", "a b", "-a", "a-", "a..b", "a\n", "ä", "a" * 64))
def test_a_bad_host_name_is_refused(name: str) -> None:
    with pytest.raises(PyxenError, match="is not the name of a host"):
        read_seed(name, None, [], None)


@pytest.mark.parametrize("data", (b"packages: []", b"\xff\xfe"))
def test_user_data_of_no_kind_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(PyxenError, match=r"no (text|user data)"):
        read_seed(None, None, [], tmp_path / "file")


def test_an_empty_password_is_refused() -> None:
    with pytest.raises(PyxenError, match="password"):
        read_seed(None, "", [], None)


def test_a_seed_of_nothing_is_false() -> None:
    assert not read_seed(None, None, [], None)
    assert read_seed("box", None, [], None)


def test_a_seed_file_is_for_its_owner_and_replaces_nothing(tmp_path: Path) -> None:
    images.write_seed_file(tmp_path / "seed", Seed(password="x"))

    assert (tmp_path / "seed").stat().st_mode & 0o777 == 0o600
    assert b"chpasswd" in content((tmp_path / "seed").read_bytes())["user-data"]
    with pytest.raises(PyxenError, match="File exists"):
        images.write_seed_file(tmp_path / "seed", Seed(password="y"))
