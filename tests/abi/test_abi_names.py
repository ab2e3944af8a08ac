# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of names, derived from the numbers of each family."""

from __future__ import annotations

from pyxen.abi import xen
from pyxen.abi.callback import CALLBACKOP_NAMES
from pyxen.abi.errno import ERRNO_NAMES
from pyxen.abi.event_channel import EVTCHNOP_NAMES
from pyxen.abi.grant_table import GNTTABOP_NAMES
from pyxen.abi.io_xs_wire import XS_NAMES
from pyxen.abi.memory import XENMEM_NAMES
from pyxen.abi.names import names_of
from pyxen.abi.physdev import PHYSDEVOP_NAMES
from pyxen.abi.sched import SCHEDOP_NAMES
from pyxen.abi.vcpu import VCPUOP_NAMES
from pyxen.abi.version import XENVER_NAMES


def test_the_first_name_of_a_number_is_taken_and_other_things_are_not() -> None:
    namespace = {"A_one": 1, "B_one": 1, "A_uno": 1, "A_two": 2, "A_text": "3"}
    assert names_of(namespace, "A_") == {1: "one", 2: "two"}


def test_tables_hold_their_family_and_nothing_else() -> None:
    # The first and last number and the count: a number of another family would change one of them.
    tables = {
        "hypercalls": (xen.HYPERCALL_NAMES, (0, "set_trap_table"), (55, "arch_7"), 50),
        "mmuext": (xen.MMUEXT_NAMES, (0, "PIN_L1_TABLE"), (20, "UNMARK_SUPER"), 20),
        "virq": (xen.VIRQ_NAMES, (0, "TIMER"), (23, "ARCH_7"), 21),
        "evtchnop": (EVTCHNOP_NAMES, (0, "bind_interdomain"), (13, "set_priority"), 14),
        "gnttabop": (GNTTABOP_NAMES, (0, "map_grant_ref"), (12, "cache_flush"), 13),
        "xenmem": (XENMEM_NAMES, (0, "increase_reservation"), (28, "acquire_resource"), 28),
        "physdevop": (PHYSDEVOP_NAMES, (4, "IRQ_UNMASK_NOTIFY"), (32, "pci_device_reset"), 27),
        "schedop": (SCHEDOP_NAMES, (0, "yield"), (7, "pin_override"), 8),
        "vcpuop": (VCPUOP_NAMES, (0, "initialise"), (15, "register_vcpu_time_phys_area"), 16),
        "xenver": (XENVER_NAMES, (0, "version"), (14, "commandline2"), 15),
        "callbackop": (CALLBACKOP_NAMES, (0, "register"), (1, "unregister"), 2),
        "xs": (XS_NAMES, (0, "CONTROL"), (0xFFFF, "INVALID"), 23),
        "errno": (ERRNO_NAMES, (1, "EPERM"), (111, "ECONNREFUSED"), 49),
    }
    for family, (names, first, last, count) in tables.items():
        assert min(names.items()) == first, family
        assert max(names.items()) == last, family
        assert len(names) == count, family
