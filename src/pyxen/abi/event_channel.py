# SPDX-License-Identifier: GPL-2.0-or-later
"""Event channels (public/event_channel.h).

An event is one bit from one side of a channel to the other; it is Xen's interrupt. A domain names
its ends of channels by small numbers, ports; 0 is none. The other end is another domain
(interdomain: one side offers an unbound port, the other binds to it), another vCPU of the same
domain (ipi), or Xen (virq: timer, debug and others). Sending to a port sets the pending bit of the
port at the other end; if it is not masked and was not pending, the vCPU to which that port is
bound is told by an upcall.

In the two-level form the bits are the arrays evtchn_pending and evtchn_mask of shared_info, and
each vCPU has a word that says in which words of the array to look (evtchn_pending_sel). In the
FIFO form every port has a word in an array that the guest provides, and pending ports are linked
into sixteen queues by priority, whose heads stand in a control block for each vCPU.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.layout import Layout
from pyxen.abi.names import names_of

EVTCHNOP_bind_interdomain: Final = 0
EVTCHNOP_bind_virq: Final = 1
EVTCHNOP_bind_pirq: Final = 2
EVTCHNOP_close: Final = 3
EVTCHNOP_send: Final = 4
EVTCHNOP_status: Final = 5
EVTCHNOP_alloc_unbound: Final = 6
EVTCHNOP_bind_ipi: Final = 7
EVTCHNOP_bind_vcpu: Final = 8
EVTCHNOP_unmask: Final = 9
EVTCHNOP_reset: Final = 10
EVTCHNOP_init_control: Final = 11
EVTCHNOP_expand_array: Final = 12
EVTCHNOP_set_priority: Final = 13

EVTCHNOP_NAMES: Final[dict[int, str]] = names_of(globals(), "EVTCHNOP_")

BIND_PIRQ__WILL_SHARE: Final = 1

# evtchn_status.status.
EVTCHNSTAT_closed: Final = 0
EVTCHNSTAT_unbound: Final = 1
EVTCHNSTAT_interdomain: Final = 2
EVTCHNSTAT_pirq: Final = 3
EVTCHNSTAT_virq: Final = 4
EVTCHNSTAT_ipi: Final = 5

EVTCHNSTAT_NAMES: Final[dict[int, str]] = names_of(globals(), "EVTCHNSTAT_")

# Ports of the two-level form: 64 words of 64 bits.
EVTCHN_2L_NR_CHANNELS: Final = 4096

# FIFO form: priorities (0 is the most urgent), bits of an event word, and the link to the next.
EVTCHN_FIFO_PRIORITY_MAX: Final = 0
EVTCHN_FIFO_PRIORITY_DEFAULT: Final = 7
EVTCHN_FIFO_PRIORITY_MIN: Final = 15
EVTCHN_FIFO_MAX_QUEUES: Final = EVTCHN_FIFO_PRIORITY_MIN + 1
EVTCHN_FIFO_PENDING: Final = 31
EVTCHN_FIFO_MASKED: Final = 30
EVTCHN_FIFO_LINKED: Final = 29
EVTCHN_FIFO_BUSY: Final = 28
EVTCHN_FIFO_LINK_BITS: Final = 17
EVTCHN_FIFO_LINK_MASK: Final = (1 << EVTCHN_FIFO_LINK_BITS) - 1
EVTCHN_FIFO_NR_CHANNELS: Final = 1 << EVTCHN_FIFO_LINK_BITS

EVTCHN_ALLOC_UNBOUND: Final = Layout(
    "evtchn_alloc_unbound_t",
    ("dom", "H"),
    ("remote_dom", "H"),
    ("port", "I"),
)
EVTCHN_BIND_INTERDOMAIN: Final = Layout(
    "evtchn_bind_interdomain_t",
    ("remote_dom", "H"),
    ("remote_port", "I"),
    ("local_port", "I"),
)
EVTCHN_BIND_VIRQ: Final = Layout(
    "evtchn_bind_virq_t",
    ("virq", "I"),
    ("vcpu", "I"),
    ("port", "I"),
)
EVTCHN_BIND_PIRQ: Final = Layout(
    "evtchn_bind_pirq_t",
    ("pirq", "I"),
    ("flags", "I"),
    ("port", "I"),
)
EVTCHN_BIND_IPI: Final = Layout("evtchn_bind_ipi_t", ("vcpu", "I"), ("port", "I"))
EVTCHN_CLOSE: Final = Layout("evtchn_close_t", ("port", "I"))
EVTCHN_SEND: Final = Layout("evtchn_send_t", ("port", "I"))

# The union at the end depends on status: each form is a layout of the same structure.
EVTCHN_STATUS: Final = Layout(
    "evtchn_status_t",
    ("dom", "H"),
    ("port", "I"),
    ("status", "I"),
    ("vcpu", "I"),
    ("u", "8s"),
)
EVTCHN_STATUS_UNBOUND: Final = Layout(
    "evtchn_status_t",
    ("dom", "H"),
    ("port", "I"),
    ("status", "I"),
    ("vcpu", "I"),
    ("u.unbound.dom", "H"),
    size=EVTCHN_STATUS.size,
)
EVTCHN_STATUS_INTERDOMAIN: Final = Layout(
    "evtchn_status_t",
    ("dom", "H"),
    ("port", "I"),
    ("status", "I"),
    ("vcpu", "I"),
    ("u.interdomain.dom", "H"),
    ("u.interdomain.port", "I"),
)
EVTCHN_STATUS_PIRQ: Final = Layout(
    "evtchn_status_t",
    ("dom", "H"),
    ("port", "I"),
    ("status", "I"),
    ("vcpu", "I"),
    ("u.pirq", "I"),
    size=EVTCHN_STATUS.size,
)
EVTCHN_STATUS_VIRQ: Final = Layout(
    "evtchn_status_t",
    ("dom", "H"),
    ("port", "I"),
    ("status", "I"),
    ("vcpu", "I"),
    ("u.virq", "I"),
    size=EVTCHN_STATUS.size,
)

EVTCHN_BIND_VCPU: Final = Layout("evtchn_bind_vcpu_t", ("port", "I"), ("vcpu", "I"))
EVTCHN_UNMASK: Final = Layout("evtchn_unmask_t", ("port", "I"))
EVTCHN_RESET: Final = Layout("evtchn_reset_t", ("dom", "H"))
EVTCHN_INIT_CONTROL: Final = Layout(
    "evtchn_init_control_t",
    ("control_gfn", "Q"),
    ("offset", "I"),
    ("vcpu", "I"),
    ("link_bits", "B"),
    ("_pad", "7x"),
)
EVTCHN_EXPAND_ARRAY: Final = Layout("evtchn_expand_array_t", ("array_gfn", "Q"))
EVTCHN_SET_PRIORITY: Final = Layout("evtchn_set_priority_t", ("port", "I"), ("priority", "I"))

# Argument of event_channel_op_compat: u is the structure of the operation.
EVTCHN_OP: Final = Layout("evtchn_op_t", ("cmd", "I"), ("u", EVTCHN_STATUS))

# One for each vCPU: ready has a bit for each queue that is not empty, head the port in front.
EVTCHN_FIFO_CONTROL_BLOCK: Final = Layout(
    "evtchn_fifo_control_block_t",
    ("ready", "I"),
    ("_rsvd", "I"),
    ("head", f"{EVTCHN_FIFO_MAX_QUEUES}I"),
)
