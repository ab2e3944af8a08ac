# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations on physical devices (public/physdev.h).

A domain with real hardware has the interrupts of that hardware as numbers of its own (pirq), bound
to event channels; by physdev_op it maps them, acknowledges them, and asks for the right to use I/O
ports or IO-APIC registers. A domain without hardware needs little of it: kernels set their I/O
privilege level at start, ask how to acknowledge (pirq_eoi_gmfn), and are told that the rest is not
theirs.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.layout import Layout
from pyxen.abi.names import names_of

PHYSDEVOP_IRQ_UNMASK_NOTIFY: Final = 4
PHYSDEVOP_irq_status_query: Final = 5
PHYSDEVOP_set_iopl: Final = 6
PHYSDEVOP_set_iobitmap: Final = 7
PHYSDEVOP_apic_read: Final = 8
PHYSDEVOP_apic_write: Final = 9
PHYSDEVOP_alloc_irq_vector: Final = 10
PHYSDEVOP_free_irq_vector: Final = 11
PHYSDEVOP_eoi: Final = 12
PHYSDEVOP_map_pirq: Final = 13
PHYSDEVOP_unmap_pirq: Final = 14
PHYSDEVOP_manage_pci_add: Final = 15
PHYSDEVOP_manage_pci_remove: Final = 16
PHYSDEVOP_pirq_eoi_gmfn_v1: Final = 17
PHYSDEVOP_restore_msi: Final = 19
PHYSDEVOP_manage_pci_add_ext: Final = 20
PHYSDEVOP_setup_gsi: Final = 21
PHYSDEVOP_get_free_pirq: Final = 23
PHYSDEVOP_pci_mmcfg_reserved: Final = 24
PHYSDEVOP_pci_device_add: Final = 25
PHYSDEVOP_pci_device_remove: Final = 26
PHYSDEVOP_restore_msi_ext: Final = 27
PHYSDEVOP_pirq_eoi_gmfn_v2: Final = 28
PHYSDEVOP_dbgp_op: Final = 29
PHYSDEVOP_prepare_msix: Final = 30
PHYSDEVOP_release_msix: Final = 31
PHYSDEVOP_pci_device_reset: Final = 32

PHYSDEVOP_NAMES: Final[dict[int, str]] = names_of(globals(), "PHYSDEVOP_")

# physdev_irq_status_query.flags.
XENIRQSTAT_needs_eoi: Final = 1 << 0
XENIRQSTAT_shared: Final = 1 << 1

# physdev_map_pirq.type.
MAP_PIRQ_TYPE_MSI: Final = 0
MAP_PIRQ_TYPE_GSI: Final = 1
MAP_PIRQ_TYPE_UNKNOWN: Final = 2
MAP_PIRQ_TYPE_MSI_SEG: Final = 3
MAP_PIRQ_TYPE_MULTI_MSI: Final = 4

# physdev_pci_mmcfg_reserved.flags, physdev_pci_device_add.flags.
XEN_PCI_MMCFG_RESERVED: Final = 1
XEN_PCI_DEV_EXTFN: Final = 1
XEN_PCI_DEV_VIRTFN: Final = 2
XEN_PCI_DEV_PXM: Final = 4

# physdev_dbgp_op.op and bus.
PHYSDEVOP_DBGP_RESET_PREPARE: Final = 1
PHYSDEVOP_DBGP_RESET_DONE: Final = 2
PHYSDEVOP_DBGP_BUS_UNKNOWN: Final = 0
PHYSDEVOP_DBGP_BUS_PCI: Final = 1

PHYSDEV_EOI: Final = Layout("physdev_eoi_t", ("irq", "I"))
PHYSDEV_PIRQ_EOI_GMFN: Final = Layout("physdev_pirq_eoi_gmfn_t", ("gmfn", "Q"))
PHYSDEV_IRQ_STATUS_QUERY: Final = Layout(
    "physdev_irq_status_query_t",
    ("irq", "I"),
    ("flags", "I"),
)
PHYSDEV_SET_IOPL: Final = Layout("physdev_set_iopl_t", ("iopl", "I"))

# bitmap: address of nr_ports bits, a set bit forbids the port.
PHYSDEV_SET_IOBITMAP: Final = Layout(
    "physdev_set_iobitmap_t",
    ("bitmap", "Q"),
    ("nr_ports", "I"),
)
PHYSDEV_APIC: Final = Layout(
    "physdev_apic_t",
    ("apic_physbase", "Q"),
    ("reg", "I"),
    ("value", "I"),
)
PHYSDEV_IRQ: Final = Layout("physdev_irq_t", ("irq", "I"), ("vector", "I"))
PHYSDEV_MAP_PIRQ: Final = Layout(
    "physdev_map_pirq_t",
    ("domid", "H"),
    ("type", "i"),
    ("index", "i"),
    ("pirq", "i"),
    ("bus", "i"),
    ("devfn", "i"),
    ("entry_nr", "i"),
    ("table_base", "Q"),
)
PHYSDEV_UNMAP_PIRQ: Final = Layout("physdev_unmap_pirq_t", ("domid", "H"), ("pirq", "i"))
PHYSDEV_MANAGE_PCI: Final = Layout("physdev_manage_pci_t", ("bus", "B"), ("devfn", "B"))
PHYSDEV_RESTORE_MSI: Final = Layout("physdev_restore_msi_t", ("bus", "B"), ("devfn", "B"))
PHYSDEV_MANAGE_PCI_EXT: Final = Layout(
    "physdev_manage_pci_ext_t",
    ("bus", "B"),
    ("devfn", "B"),
    ("is_extfn", "I"),
    ("is_virtfn", "I"),
    ("physfn.bus", "B"),
    ("physfn.devfn", "B"),
)

# Argument of physdev_op_compat: u is the structure of the operation.
PHYSDEV_OP: Final = Layout("physdev_op_t", ("cmd", "I"), ("u", PHYSDEV_APIC))

PHYSDEV_SETUP_GSI: Final = Layout(
    "physdev_setup_gsi_t",
    ("gsi", "i"),
    ("triggering", "B"),
    ("polarity", "B"),
)
PHYSDEV_GET_FREE_PIRQ: Final = Layout("physdev_get_free_pirq_t", ("type", "i"), ("pirq", "I"))
PHYSDEV_PCI_MMCFG_RESERVED: Final = Layout(
    "physdev_pci_mmcfg_reserved_t",
    ("address", "Q"),
    ("segment", "H"),
    ("start_bus", "B"),
    ("end_bus", "B"),
    ("flags", "I"),
)

# Further words follow; the first is the proximity domain if XEN_PCI_DEV_PXM is set.
PHYSDEV_PCI_DEVICE_ADD: Final = Layout(
    "physdev_pci_device_add_t",
    ("seg", "H"),
    ("bus", "B"),
    ("devfn", "B"),
    ("flags", "I"),
    ("physfn.bus", "B"),
    ("physfn.devfn", "B"),
)
PHYSDEV_PCI_DEVICE: Final = Layout(
    "physdev_pci_device_t",
    ("seg", "H"),
    ("bus", "B"),
    ("devfn", "B"),
)
PHYSDEV_DBGP_OP: Final = Layout(
    "physdev_dbgp_op_t",
    ("op", "B"),
    ("bus", "B"),
    ("u.pci", PHYSDEV_PCI_DEVICE),
)

NOT_IN_HEADERS: Final[dict[str, str]] = {
    "PHYSDEVOP_pci_device_reset": "later than Xen 4.17",
}
