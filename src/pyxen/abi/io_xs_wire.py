# SPDX-License-Identifier: GPL-2.0-or-later
"""The wire protocol of xenstore (public/io/xs_wire.h).

xenstore is a tree of small values that the domains of a machine share. A message is a header,
`XSD_SOCKMSG`, and len bytes, mostly strings that end in a zero byte. The store answers each
request by a message of the same type, req_id and tx_id, or of type XS_ERROR with the name of an
error; watch events come at any time. A process of dom0 speaks it over a unix socket. A guest
speaks it over one shared page and one event channel: the page has a ring for requests and one for
answers and events, with freely running indices as in the console ring.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.layout import Layout
from pyxen.abi.names import names_of

# xsd_sockmsg.type. 20 was XS_RESTRICT.
XS_CONTROL: Final = 0
XS_DIRECTORY: Final = 1
XS_READ: Final = 2
XS_GET_PERMS: Final = 3
XS_WATCH: Final = 4
XS_UNWATCH: Final = 5
XS_TRANSACTION_START: Final = 6
XS_TRANSACTION_END: Final = 7
XS_INTRODUCE: Final = 8
XS_RELEASE: Final = 9
XS_GET_DOMAIN_PATH: Final = 10
XS_WRITE: Final = 11
XS_MKDIR: Final = 12
XS_RM: Final = 13
XS_SET_PERMS: Final = 14
XS_WATCH_EVENT: Final = 15
XS_ERROR: Final = 16
XS_IS_DOMAIN_INTRODUCED: Final = 17
XS_RESUME: Final = 18
XS_SET_TARGET: Final = 19
XS_RESET_WATCHES: Final = 21
XS_DIRECTORY_PART: Final = 22
XS_INVALID: Final = 0xFFFF

XS_NAMES: Final[dict[int, str]] = names_of(globals(), "XS_")

XS_DEBUG: Final = XS_CONTROL

# Which string of a watch event is which.
XS_WATCH_PATH: Final = 0
XS_WATCH_TOKEN: Final = 1

# The errors that an answer may name, by their names in errno.h.
XSD_ERRORS: Final = (
    "EINVAL",
    "EACCES",
    "EEXIST",
    "EISDIR",
    "ENOENT",
    "ENOMEM",
    "ENOSPC",
    "EIO",
    "ENOTEMPTY",
    "ENOSYS",
    "EROFS",
    "EBUSY",
    "EAGAIN",
    "EISCONN",
    "E2BIG",
    "EPERM",
)

# Bytes of each ring, of a message after its header (else the connection ends), and of paths.
XENSTORE_RING_SIZE: Final = 1024
XENSTORE_PAYLOAD_MAX: Final = 4096
XENSTORE_ABS_PATH_MAX: Final = 3072
XENSTORE_REL_PATH_MAX: Final = 2048

# xenstore_domain_interface.server_features, connection and error.
XENSTORE_SERVER_FEATURE_RECONNECTION: Final = 1
XENSTORE_SERVER_FEATURE_ERROR: Final = 2
XENSTORE_CONNECTED: Final = 0
XENSTORE_RECONNECT: Final = 1
XENSTORE_ERROR_NONE: Final = 0
XENSTORE_ERROR_COMM: Final = 1
XENSTORE_ERROR_RINGIDX: Final = 2
XENSTORE_ERROR_PROTO: Final = 3

XSD_SOCKMSG: Final = Layout(
    "struct xsd_sockmsg",
    ("type", "I"),
    ("req_id", "I"),
    ("tx_id", "I"),
    ("len", "I"),
)

XENSTORE_DOMAIN_INTERFACE: Final = Layout(
    "struct xenstore_domain_interface",
    ("req", f"{XENSTORE_RING_SIZE}s"),
    ("rsp", f"{XENSTORE_RING_SIZE}s"),
    ("req_cons", "I"),
    ("req_prod", "I"),
    ("rsp_cons", "I"),
    ("rsp_prod", "I"),
    ("server_features", "I"),
    ("connection", "I"),
    ("error", "I"),
)
