# SPDX-License-Identifier: GPL-2.0-or-later
"""Error numbers (public/errno.h).

A hypercall returns a number of zero or more for success, and minus one of these for a refusal.
They are Xen's own, chosen equal to Linux's on x86, whatever system Xen or the guest runs: so they
are spelled out here and not taken from the `errno` module of the machine below. In the header the
names begin with `XEN_`. Operations on several items often report through a status field in each
item instead, and grant operations there use other numbers (`GNTST_*` in `grant_table`).
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.names import names_of

EPERM: Final = 1
ENOENT: Final = 2
ESRCH: Final = 3
EINTR: Final = 4
EIO: Final = 5
ENXIO: Final = 6
E2BIG: Final = 7
ENOEXEC: Final = 8
EBADF: Final = 9
ECHILD: Final = 10
EAGAIN: Final = 11
EWOULDBLOCK: Final = 11
ENOMEM: Final = 12
EACCES: Final = 13
EFAULT: Final = 14
EBUSY: Final = 16
EEXIST: Final = 17
EXDEV: Final = 18
ENODEV: Final = 19
ENOTDIR: Final = 20
EISDIR: Final = 21
EINVAL: Final = 22
ENFILE: Final = 23
EMFILE: Final = 24
ENOSPC: Final = 28
EROFS: Final = 30
EMLINK: Final = 31
EDOM: Final = 33
ERANGE: Final = 34
EDEADLK: Final = 35
EDEADLOCK: Final = 35
ENAMETOOLONG: Final = 36
ENOLCK: Final = 37
ENOSYS: Final = 38
ENOTEMPTY: Final = 39
ENODATA: Final = 61
ETIME: Final = 62
EBADMSG: Final = 74
EOVERFLOW: Final = 75
EILSEQ: Final = 84
ERESTART: Final = 85
ENOTSOCK: Final = 88
EMSGSIZE: Final = 90
EOPNOTSUPP: Final = 95
EADDRINUSE: Final = 98
EADDRNOTAVAIL: Final = 99
ENOBUFS: Final = 105
EISCONN: Final = 106
ENOTCONN: Final = 107
ETIMEDOUT: Final = 110
ECONNREFUSED: Final = 111

ERRNO_NAMES: Final[dict[int, str]] = {
    number: "E" + name for number, name in names_of(globals(), "E").items()
}

NOT_IN_HEADERS: Final[dict[str, str]] = {
    "EINTR": "defined for Xen itself only, no guest sees it",
    "ERESTART": "defined for Xen itself only, no guest sees it",
}
