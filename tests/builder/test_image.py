# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import contextlib
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_kernels import (
    ENTRY,
    Sect,
    bzimage,
    elf,
    gzip_compressed,
    linux_elf,
    linux_notes,
)

from pyxen.builder import image
from pyxen.builder.image import default_cache, load_kernel
from pyxen.builder.symbols import load_symbols
from pyxen.errors import PyxenError

KERNEL = linux_elf()


def with_size(payload: bytes, kernel: bytes) -> bytes:
    return payload + struct.pack("<I", len(kernel))


BZIMAGE = bzimage(with_size(lzma.compress(KERNEL), KERNEL))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "kernels"


def load(tmp_path: Path, content: bytes, cache: Path | None = None) -> image.KernelImage:
    file = tmp_path / "kernel"
    file.write_bytes(content)
    return load_kernel(file, cache or tmp_path / "cache")


def test_an_elf_file_is_read_as_it_is(tmp_path: Path, cache: Path) -> None:
    kernel = load(tmp_path, KERNEL, cache)
    assert kernel.elf.data == KERNEL
    assert kernel.notes.entry == ENTRY
    assert not cache.exists()


@pytest.mark.parametrize("setup_sects", (0, 1, 40))
def test_a_boot_image(tmp_path: Path, setup_sects: int) -> None:
    file = bzimage(gzip_compressed(KERNEL), setup_sects)
    assert load(tmp_path, file).elf.data == KERNEL


def test_a_compressed_elf_file(tmp_path: Path) -> None:
    assert load(tmp_path, gzip_compressed(KERNEL)).elf.data == KERNEL


def test_the_second_start_does_not_decompress(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(tmp_path, BZIMAGE, cache)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(image, "_decompress", None)
    assert load(tmp_path, BZIMAGE, cache).elf.data == KERNEL


def test_another_kernel_has_another_entry(tmp_path: Path, cache: Path) -> None:
    other = linux_elf(GUEST_VERSION=b"7.0\0")
    load(tmp_path, BZIMAGE, cache)
    assert load(tmp_path, gzip_compressed(other), cache).notes.guest_version == "7.0"
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    (
        lambda entry: b"",
        lambda entry: entry[:100],
        lambda entry: entry[:4096],
        lambda entry: entry[:-1],
        lambda entry: entry + b"\0",
        lambda entry: b"X" + entry[1:],
        lambda entry: entry[:5000] + bytes([entry[5000] ^ 1]) + entry[5001:],
    ),
)
def test_a_damaged_cache_entry_is_made_anew(
    tmp_path: Path, cache: Path, damage: Callable[[bytes], bytes]
) -> None:
    load(tmp_path, BZIMAGE, cache)
    (entry,) = cache.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert load(tmp_path, BZIMAGE, cache).elf.data == KERNEL
    assert list(cache.iterdir()) == [entry]
    assert entry.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    assert load(tmp_path, BZIMAGE, blocker / "kernels").elf.data == KERNEL


def test_a_failed_write_leaves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", refuse)
    assert load(tmp_path, BZIMAGE, cache).elf.data == KERNEL
    assert list(cache.iterdir()) == []


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert default_cache() == Path("/elsewhere/pyxen/kernels")
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_cache() == Path("/home/someone/.cache/pyxen/kernels")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path("/home/someone/.cache/pyxen/kernels")


def patched(file: bytes, offset: int, content: bytes) -> bytes:
    return file[:offset] + content + file[offset + len(content) :]


@pytest.mark.parametrize(
    ("content", "message"),
    (
        (b"", "file is empty"),
        (b"#!/bin/sh\n", "not a kernel, expected an ELF file or a Linux boot image"),
        (bytes(100_000), "not a kernel"),
        (elf(elf_class=1), "32-bit ELF file"),
        (elf(), "without Xen support"),
        (gzip_compressed(b"hello"), "begins with 68 65 6c 6c, expected an ELF kernel"),
        (gzip_compressed(b""), "begins with nothing, expected an ELF kernel"),
        (BZIMAGE[:0x240], "truncated in its set-up header"),
        (BZIMAGE[:-100], "its payload ends at"),
        (patched(BZIMAGE, 0x1FE, b"\0\0"), "boot_flag 0x0, expected 0xaa55"),
        (patched(BZIMAGE, 0x206, b"\x05\x02"), "boot protocol 2.05, expected at least 2.08"),
        (patched(BZIMAGE, 0x24C, bytes(4)), "payload_length 0"),
        (patched(BZIMAGE, 0x248, b"\xff" * 4), "its payload ends at"),
        (bzimage(with_size(b"\0\0junk", KERNEL)), "payload begins with 00 00"),
        (bzimage(lzma.compress(KERNEL) + b"\xff" * 4), "has 4294967295 bytes, expected at most"),
        (bzimage(with_size(lzma.compress(KERNEL), KERNEL[1:])), "expands to more than"),
        (bzimage(with_size(lzma.compress(KERNEL), KERNEL + b"!")), "its header says"),
        (bzimage(with_size(lzma.compress(KERNEL)[:-20], KERNEL)), "xz payload is damaged"),
    ),
)
def test_a_bad_file_is_named_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(PyxenError, match=message) as caught:
        load(tmp_path, content)
    assert str(caught.value).startswith(f"{tmp_path / 'kernel'}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PyxenError, match="missing: cannot read the kernel: No such file"):
        load_kernel(tmp_path / "missing")
    with pytest.raises(PyxenError, match="cannot read the kernel: Is a directory"):
        load_kernel(tmp_path)


def test_a_file_larger_than_any_kernel(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate((1 << 30) + (1 << 20))
    with pytest.raises(PyxenError, match="has 1025 MiB, expected a kernel of at most 1024 MiB"):
        load_kernel(tmp_path / "sparse")


def test_a_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyxen.builder.payload.MAX_IMAGE_SIZE", 1 << 20)
    bomb = bytes(2 << 20)
    with pytest.raises(PyxenError, match="has 2097152 bytes, expected at most 1048576"):
        load(tmp_path, bzimage(gzip_compressed(bomb)))


def test_check_pv_names_the_file(tmp_path: Path) -> None:
    kernel = load(tmp_path, linux_elf(FEATURES=b"!dom0"))
    with pytest.raises(PyxenError, match=f"{tmp_path}/kernel: kernel requires the feature dom0"):
        kernel.check_pv(0)


SUBJECTS = {
    "elf": elf(notes=linux_notes(), sections=[Sect(".symtab", 2, bytes(range(240)), link=2)]),
    "guest": elf(sections=[Sect("__xen_guest", 1, b"LOADER=generic,VIRT_BASE=0x1000,FEATURES=!a")]),
    "gzip": bzimage(gzip_compressed(KERNEL)),
    "xz": BZIMAGE,
}


@pytest.mark.parametrize("subject", sorted(SUBJECTS))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_happens_to_a_file_only_our_error_comes(
    tmp_path: Path, subject: str, data: st.DataObject
) -> None:
    file = bytearray(SUBJECTS[subject])
    for _ in range(data.draw(st.integers(0, 4))):
        # Half of the changes go where the headers are.
        limit = data.draw(st.sampled_from((700, len(file))))
        place = data.draw(st.integers(0, min(limit, len(file)) - 1))
        change = data.draw(st.binary(min_size=1, max_size=8))
        file[place : place + len(change)] = change
    if data.draw(st.booleans()):
        del file[data.draw(st.integers(0, len(file))) :]
    with contextlib.suppress(PyxenError):
        kernel = load(tmp_path, bytes(file))
        load_symbols(kernel)
        kernel.check_pv(0)
