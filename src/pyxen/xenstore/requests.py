# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client of the store can do, whatever carries its requests.

Paths are text, values are bytes; a value that is written may be text, too. Everything raises
StoreError with the name of the error that the store has answered with, and EINVAL for text that
cannot be said in a request.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore.error import StoreError


def pack(*strings: str) -> bytes:
    """Strings as a payload."""
    for text in strings:
        if "\0" in text or not text.isascii():
            raise StoreError("EINVAL")
    return "".join(f"{text}\0" for text in strings).encode("ascii")


def value_bytes(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else value


def unpack(payload: bytes) -> list[str]:
    """The strings of a payload."""
    return payload.decode("latin-1").split("\0")[:-1]


class Requests(ABC):
    """The operations on nodes, of a client or within one of its transactions."""

    @abstractmethod
    def request(self, kind: int, payload: bytes) -> bytes:
        """Make one request of type ``kind``; returns the answer's payload."""

    def read(self, path: str) -> bytes:
        return self.request(abi.XS_READ, pack(path))

    def write(self, path: str, value: bytes | str) -> None:
        """Create the node, and its parents, if it is not there."""
        self.request(abi.XS_WRITE, pack(path) + value_bytes(value))

    def mkdir(self, path: str) -> None:
        """Create the node, and its parents, unless it is there."""
        self.request(abi.XS_MKDIR, pack(path))

    def remove(self, path: str) -> None:
        """Remove the node, if it is there, and all below it. ENOENT: not even its parent is."""
        self.request(abi.XS_RM, pack(path))

    def directory(self, path: str) -> list[str]:
        """The names of the node's children, however many."""
        try:
            return unpack(self.request(abi.XS_DIRECTORY, pack(path)))
        except StoreError as error:
            if error.name != "E2BIG":
                raise
        parts = DirectoryParts()
        while not parts.complete:
            parts.add(self.request(abi.XS_DIRECTORY_PART, pack(path, str(parts.size))))
        return parts.names()

    def exists(self, path: str) -> bool:
        """Whether the node is there and may be read."""
        try:
            self.read(path)
        except StoreError as error:
            if error.name in ("ENOENT", "EACCES"):
                return False
            raise
        return True

    def permissions(self, path: str) -> list[str]:
        """Such as ``["n1", "r0"]``, the owner's first: see ``permissions``."""
        return unpack(self.request(abi.XS_GET_PERMS, pack(path)))

    def set_permissions(self, path: str, permissions: Sequence[str]) -> None:
        self.request(abi.XS_SET_PERMS, pack(path, *permissions))


class ClientRequests(Requests):
    """Those that are made outside transactions."""

    def domain_path(self, domid: int) -> str:
        """The directory of a domain."""
        return unpack(self.request(abi.XS_GET_DOMAIN_PATH, pack(str(domid))))[0]

    def is_introduced(self, domid: int) -> bool:
        """Whether the store speaks with the domain."""
        return self.request(abi.XS_IS_DOMAIN_INTRODUCED, pack(str(domid))) == b"T\0"

    def introduce(self, domid: int, gfn: int, port: int) -> None:
        """Have the store speak with a domain: the frame of its ring, its event channel."""
        self.request(abi.XS_INTRODUCE, pack(str(domid), str(gfn), str(port)))

    def release(self, domid: int) -> None:
        """Have the store forget a domain."""
        self.request(abi.XS_RELEASE, pack(str(domid)))

    def resume(self, domid: int) -> None:
        """The domain runs again: ``@releaseDomain`` is told again when it stops again."""
        self.request(abi.XS_RESUME, pack(str(domid)))

    def set_target(self, domid: int, target: int) -> None:
        """Give a domain the rights of another one, too."""
        self.request(abi.XS_SET_TARGET, pack(str(domid), str(target)))

    def control(self, *words: str) -> str:
        """A command for the server itself, see ``control``."""
        return unpack(self.request(abi.XS_CONTROL, pack(*words)))[0]


class DirectoryParts:
    """Collects a list of children that comes in parts, and begins again if it changes meanwhile."""

    def __init__(self) -> None:
        self._data = b""
        self._generation = b""
        self.complete = False

    @property
    def size(self) -> int:
        """How many bytes there are: where to go on."""
        return len(self._data)

    def add(self, payload: bytes) -> None:
        """Take an answer."""
        generation, _, part = payload.partition(b"\0")
        if self._data and generation != self._generation:
            self._data = b""
            return
        self._generation = generation
        if part.endswith(b"\0\0") or part == b"\0":
            self.complete = True
            part = part[:-1]
        self._data += part

    def names(self) -> list[str]:
        return unpack(self._data)
