# SPDX-License-Identifier: GPL-2.0-or-later
"""The file that keeps a console's output."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyxen.backends.console.log_file import LogFile
from pyxen.errors import PyxenError

STAMP = rb"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] "


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "console.log"


def test_output_is_appended_unchanged(path: Path) -> None:
    path.write_bytes(b"before\n")
    file = LogFile(path)
    file.write(b"one\r\ntw\xff")
    file.write(b"o\x1b[0m")
    file.close()
    file.close()
    assert path.read_bytes() == b"before\none\r\ntw\xffo\x1b[0m"
    assert file.lost == 0


def test_only_its_owner_may_read_it(path: Path) -> None:
    LogFile(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_lines_begin_with_their_time(path: Path) -> None:
    file = LogFile(path, timestamps=True)
    for piece in (b"one\r\ntw", b"o", b"\n", b"\n\rthree"):
        file.write(piece)
    file.close()
    assert re.fullmatch(
        STAMP + rb"one\r\n" + STAMP + rb"two\n" + STAMP + rb"\n" + STAMP + rb"three",
        path.read_bytes(),
    )


@given(st.lists(st.text("ab\r\n", max_size=20).map(str.encode)))
def test_timestamps_change_nothing_else(pieces: list[bytes]) -> None:
    file = LogFile(Path("/dev/null"), timestamps=True)
    stamped = b"".join(map(file._stamped, pieces))
    file.close()
    plain = re.sub(rb"(?m)^" + STAMP, b"", stamped)
    assert plain == re.sub(rb"(\A|\n)\r+", rb"\1", b"".join(pieces))


def test_a_file_that_was_moved_away_is_followed_by_a_new_one(path: Path) -> None:
    """As logrotate does it, with nothing told to us."""
    file = LogFile(path)
    file.write(b"old")
    path.rename(f"{path}.1")
    file.write(b"new")
    path.unlink()
    file.write(b"newest")
    file.close()
    assert Path(f"{path}.1").read_bytes() == b"old"
    assert path.read_bytes() == b"newest"


def test_a_file_that_was_copied_and_truncated_goes_on(path: Path) -> None:
    file = LogFile(path)
    file.write(b"old")
    os.truncate(path, 0)
    file.write(b"new")
    file.close()
    assert path.read_bytes() == b"new"


def test_a_limit_rotates(path: Path) -> None:
    file = LogFile(path, limit=10, kept=2)
    for number in range(5):
        file.write(b"%d" % number * 6)
    file.close()
    assert path.read_bytes() == b"4" * 6
    assert Path(f"{path}.1").read_bytes() == b"3" * 6
    assert Path(f"{path}.2").read_bytes() == b"2" * 6
    assert sorted(path.parent.iterdir()) == [path, Path(f"{path}.1"), Path(f"{path}.2")]


def test_a_limit_without_older_files_begins_anew(path: Path) -> None:
    file = LogFile(path, limit=10, kept=0)
    file.write(b"a" * 8)
    file.write(b"b" * 8)
    file.close()
    assert path.read_bytes() == b"b" * 8
    assert list(path.parent.iterdir()) == [path]


def test_the_limit_counts_what_is_there_already(path: Path) -> None:
    path.write_bytes(b"a" * 8)
    file = LogFile(path, limit=10)
    file.write(b"b" * 8)
    file.close()
    assert (path.read_bytes(), Path(f"{path}.1").read_bytes()) == (b"b" * 8, b"a" * 8)


def test_a_full_disk_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    file = LogFile(Path("/dev/full"))
    with caplog.at_level(logging.ERROR, "pyxen"):
        file.write(b"abc")
        file.write(b"de")
    file.close()
    (record,) = caplog.records
    assert record.getMessage().startswith("/dev/full: No space left on device; ")
    assert file.lost == 5


def test_what_can_be_written_again_is(path: Path) -> None:
    folder = path.parent / "logs"
    folder.mkdir()
    file = LogFile(folder / "console.log")
    (folder / "console.log").unlink()
    folder.rmdir()
    file.write(b"lost")
    folder.mkdir()
    file.write(b"kept")
    file.close()
    assert (folder / "console.log").read_bytes() == b"kept"
    assert file.lost == 4


def test_a_pipe_that_nobody_reads_holds_nobody_up(path: Path) -> None:
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = LogFile(path, limit=10)
    for _ in range(100):
        file.write(bytes(4096))
    assert file.lost > 0
    os.close(reader)
    file.write(b"x")
    file.close()
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_cannot_be_opened_is_refused(path: Path) -> None:
    path.touch()
    with pytest.raises(PyxenError, match=f"^{path}/none: Not a directory$"):
        LogFile(path / "none")
