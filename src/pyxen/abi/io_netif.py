# SPDX-License-Identifier: GPL-2.0-or-later
"""The rings of network cards (public/io/netif.h, public/io/ring.h).

A card is driven by one or more pairs of rings, each a shared page of four indices and 256 slots. In
the ring ``tx`` the front end puts packets that it sends, in ``rx`` empty pages for those that it
receives; each names grants of its pages. A packet may take several slots: the flag ``more_data``
says that another piece follows, ``extra_info`` that the next slot is no piece but a
``netif_extra_info``, which says something about the packet. A response lies in the slot of its
request.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.layout import Layout

# Slots of one packet that every back end takes.
XEN_NETIF_NR_SLOTS_MIN: Final = 18
XEN_NETIF_MAX_TX_SIZE: Final = 0xFFFF

# netif_tx_request.flags.
NETTXF_csum_blank: Final = 1 << 0
NETTXF_data_validated: Final = 1 << 1
NETTXF_more_data: Final = 1 << 2
NETTXF_extra_info: Final = 1 << 3

# netif_rx_response.flags.
NETRXF_data_validated: Final = 1 << 0
NETRXF_csum_blank: Final = 1 << 1
NETRXF_more_data: Final = 1 << 2
NETRXF_extra_info: Final = 1 << 3
NETRXF_gso_prefix: Final = 1 << 4

XEN_NETIF_EXTRA_TYPE_NONE: Final = 0
XEN_NETIF_EXTRA_TYPE_GSO: Final = 1
XEN_NETIF_EXTRA_TYPE_MCAST_ADD: Final = 2
XEN_NETIF_EXTRA_TYPE_MCAST_DEL: Final = 3
XEN_NETIF_EXTRA_TYPE_HASH: Final = 4
XEN_NETIF_EXTRA_TYPE_MAX: Final = 5

XEN_NETIF_EXTRA_FLAG_MORE: Final = 1 << 0

XEN_NETIF_GSO_TYPE_NONE: Final = 0
XEN_NETIF_GSO_TYPE_TCPV4: Final = 1
XEN_NETIF_GSO_TYPE_TCPV6: Final = 2

NETIF_RSP_DROPPED: Final = -2
NETIF_RSP_ERROR: Final = -1
NETIF_RSP_OKAY: Final = 0
# In the slot of an extra info.
NETIF_RSP_NULL: Final = 1

# In the first slot of a packet `size` is that of the whole packet.
NETIF_TX_REQUEST: Final = Layout(
    "struct netif_tx_request",
    ("gref", "I"),
    ("offset", "H"),
    ("flags", "H"),
    ("id", "H"),
    ("size", "H"),
)
NETIF_TX_RESPONSE: Final = Layout("struct netif_tx_response", ("id", "H"), ("status", "h"))
NETIF_RX_REQUEST: Final = Layout(
    "struct netif_rx_request", ("id", "H"), ("pad", "H"), ("gref", "I")
)
# `status` is the size of the piece, or a NETIF_RSP_* below 0.
NETIF_RX_RESPONSE: Final = Layout(
    "struct netif_rx_response", ("id", "H"), ("offset", "H"), ("flags", "H"), ("status", "h")
)

NETIF_EXTRA_INFO_GSO: Final = Layout(
    "struct netif_extra_info",
    ("type", "B"),
    ("flags", "B"),
    ("u.gso.size", "H"),
    ("u.gso.type", "B"),
    ("u.gso.pad", "B"),
    ("u.gso.features", "H"),
)
NETIF_EXTRA_INFO_MCAST: Final = Layout(
    "struct netif_extra_info", ("type", "B"), ("flags", "B"), ("u.mcast.addr", "6s"), size=8
)

# The rings begin so; `ring` is the first slot, a request or a response.
NETIF_TX_SRING: Final = Layout(
    "struct netif_tx_sring",
    ("req_prod", "I"),
    ("req_event", "I"),
    ("rsp_prod", "I"),
    ("rsp_event", "I"),
    ("pvt.pvt_pad", "4s"),
    ("__pad", "44s"),
    ("ring", (NETIF_TX_REQUEST, 1)),
)
NETIF_RX_SRING: Final = Layout(
    "struct netif_rx_sring",
    ("req_prod", "I"),
    ("req_event", "I"),
    ("rsp_prod", "I"),
    ("rsp_event", "I"),
    ("pvt.pvt_pad", "4s"),
    ("__pad", "44s"),
    ("ring", (NETIF_RX_REQUEST, 1)),
)
