# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest callbacks (public/callback.h).

A PV kernel tells Xen the addresses at which it is to be entered: for an event, when a return to
the guest fails because of bad segments (failsafe), for a system call of its processes, for an NMI.
The callback_op hypercall does it one by one; set_callbacks is the older call for the first three.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.layout import Layout
from pyxen.abi.names import names_of

CALLBACKOP_register: Final = 0
CALLBACKOP_unregister: Final = 1

CALLBACKOP_NAMES: Final[dict[int, str]] = names_of(globals(), "CALLBACKOP_")

CALLBACKTYPE_event: Final = 0
CALLBACKTYPE_failsafe: Final = 1
CALLBACKTYPE_syscall: Final = 2
CALLBACKTYPE_sysenter_deprecated: Final = 3
CALLBACKTYPE_nmi: Final = 4
CALLBACKTYPE_sysenter: Final = 5
CALLBACKTYPE_syscall32: Final = 7

CALLBACKTYPE_NAMES: Final[dict[int, str]] = names_of(globals(), "CALLBACKTYPE_")

# callback_register.flags: mask events on entry. Events and NMIs do so anyway.
CALLBACKF_mask_events: Final = 1 << 0

CALLBACK_REGISTER: Final = Layout(
    "callback_register_t",
    ("type", "H"),
    ("flags", "H"),
    ("address", "Q"),
)
CALLBACK_UNREGISTER: Final = Layout("callback_unregister_t", ("type", "H"), ("_unused", "2x"))
