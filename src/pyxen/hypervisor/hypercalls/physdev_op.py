# SPDX-License-Identifier: GPL-2.0-or-later
"""physdev_op: I/O privileges and physical interrupts.

A domain without hardware has few uses for it. The I/O privilege level and the bitmap of ports
decide whether port instructions fault or are carried out by Xen, for which all ports of such a
domain are empty. Interrupt numbers (pirq) can be had, but nothing is ever bound to one. All that
configures hardware is for domain 0; the arguments of those operations are looked at first, as Xen
does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pyxen.abi import physdev as abi
from pyxen.abi.errno import EBUSY, EINVAL, ENODEV, ENOSPC, ENOSYS, EPERM, ESRCH
from pyxen.abi.layout import Layout
from pyxen.abi.xen import HYPERVISOR_physdev_op
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.addresses import UINT32, is_guest_address
from pyxen.hypervisor.events import NR_GSIS, NR_PIRQS
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.page_types import WRITABLE
from pyxen.hypervisor.vcpu import Vcpu

_MAX_PORTS: Final = 65536


@hypercall(HYPERVISOR_physdev_op)
def physdev_op(vcpu: Vcpu, command: int, argument: int) -> int:
    command &= UINT32
    name = abi.PHYSDEVOP_NAMES.get(command)
    if name is None:
        raise XenError(ENOSYS)
    vcpu.domain.counters.add_operation(f"physdev_op.{name}")
    operation = _OPERATIONS.get(command)
    if operation is not None:
        operation(vcpu, argument)
        return 0
    layout = _CONFIGURATION.get(command)
    if layout is None:
        raise XenError(ENOSYS if command in _ABSENT else EPERM)
    guest_access.copy_from(vcpu, argument, layout.size)
    raise XenError(EPERM)


def _read(vcpu: Vcpu, argument: int, layout: Layout) -> tuple[Any, ...]:
    return layout.unpack(guest_access.copy_from(vcpu, argument, layout.size))


# I/O privileges


def _set_iopl(vcpu: Vcpu, argument: int) -> None:
    (iopl,) = _read(vcpu, argument, abi.PHYSDEV_SET_IOPL)
    if iopl > 3:
        raise XenError(EINVAL)
    vcpu.set_iopl(iopl)


def _set_iobitmap(vcpu: Vcpu, argument: int) -> None:
    """The bitmap is read when a port is used."""
    bitmap, ports = _read(vcpu, argument, abi.PHYSDEV_SET_IOBITMAP)
    if ports > _MAX_PORTS or not is_guest_address(bitmap):
        raise XenError(EINVAL)
    vcpu.io_bitmap = bitmap
    vcpu.io_bitmap_ports = ports


# Interrupts


def _unmask_notify(vcpu: Vcpu, argument: int) -> None:
    """Unmasks what is bound: nothing."""


def _eoi(vcpu: Vcpu, argument: int) -> None:
    """Acknowledges what is bound: nothing."""
    (irq,) = _read(vcpu, argument, abi.PHYSDEV_EOI)
    if irq not in vcpu.domain.pirqs:
        raise XenError(EINVAL)


def _pirq_eoi_gmfn(vcpu: Vcpu, argument: int) -> None:
    """A page with a bit for each interrupt that needs an acknowledgement: none does. The page
    stays in Xen's use until the domain ends."""
    (gmfn,) = _read(vcpu, argument, abi.PHYSDEV_PIRQ_EOI_GMFN)
    domain = vcpu.domain
    try:
        domain.pagetables.get_page_and_type(gmfn, WRITABLE)
    except XenError:
        raise XenError(EINVAL) from None
    if domain.pirq_eoi_map_mfn:
        domain.pagetables.put_page_and_type(gmfn)
        raise XenError(EBUSY)
    domain.pirq_eoi_map_mfn = gmfn


def _irq_status_query(vcpu: Vcpu, argument: int) -> None:
    irq, _ = _read(vcpu, argument, abi.PHYSDEV_IRQ_STATUS_QUERY)
    if irq >= NR_PIRQS:
        raise XenError(EINVAL)
    answer = abi.PHYSDEV_IRQ_STATUS_QUERY.pack(irq, abi.XENIRQSTAT_needs_eoi)
    guest_access.copy_to(vcpu, argument, answer)


def _get_free_pirq(vcpu: Vcpu, argument: int) -> None:
    kind, _ = _read(vcpu, argument, abi.PHYSDEV_GET_FREE_PIRQ)
    taken = vcpu.domain.pirqs
    if kind == abi.MAP_PIRQ_TYPE_GSI:
        candidates = range(16, NR_GSIS)
    else:
        candidates = range(NR_PIRQS - 1, NR_GSIS - 1, -1)
    for pirq in candidates:
        if pirq not in taken:
            taken.add(pirq)
            guest_access.copy_to(vcpu, argument, abi.PHYSDEV_GET_FREE_PIRQ.pack(kind, pirq))
            return
    raise XenError(ENOSPC)


def _map_pirq(vcpu: Vcpu, argument: int) -> None:
    fields = _read(vcpu, argument, abi.PHYSDEV_MAP_PIRQ)
    if fields[1] == abi.MAP_PIRQ_TYPE_MULTI_MSI and fields[-1]:
        raise XenError(EINVAL)
    raise XenError(EPERM if vcpu.domain.is_self(fields[0]) else ESRCH)


def _unmap_pirq(vcpu: Vcpu, argument: int) -> None:
    domid, _ = _read(vcpu, argument, abi.PHYSDEV_UNMAP_PIRQ)
    raise XenError(EPERM if vcpu.domain.is_self(domid) else ESRCH)


def _setup_gsi(vcpu: Vcpu, argument: int) -> None:
    gsi = _read(vcpu, argument, abi.PHYSDEV_SETUP_GSI)[0]
    raise XenError(EPERM if 0 <= gsi < NR_GSIS else EINVAL)


# Devices


def _restore_msi(vcpu: Vcpu, argument: int) -> None:
    _read(vcpu, argument, abi.PHYSDEV_RESTORE_MSI)
    raise XenError(ENODEV)


def _restore_msi_ext(vcpu: Vcpu, argument: int) -> None:
    _read(vcpu, argument, abi.PHYSDEV_PCI_DEVICE)
    raise XenError(ENODEV)


def _manage_pci_add_ext(vcpu: Vcpu, argument: int) -> None:
    _, _, is_extfn, is_virtfn, _, _ = _read(vcpu, argument, abi.PHYSDEV_MANAGE_PCI_EXT)
    raise XenError(EINVAL if is_extfn > 1 or is_virtfn > 1 else EPERM)


_OPERATIONS: Final[dict[int, Callable[[Vcpu, int], None]]] = {
    abi.PHYSDEVOP_set_iopl: _set_iopl,
    abi.PHYSDEVOP_set_iobitmap: _set_iobitmap,
    abi.PHYSDEVOP_IRQ_UNMASK_NOTIFY: _unmask_notify,
    abi.PHYSDEVOP_eoi: _eoi,
    abi.PHYSDEVOP_pirq_eoi_gmfn_v1: _pirq_eoi_gmfn,
    abi.PHYSDEVOP_pirq_eoi_gmfn_v2: _pirq_eoi_gmfn,
    abi.PHYSDEVOP_irq_status_query: _irq_status_query,
    abi.PHYSDEVOP_get_free_pirq: _get_free_pirq,
    abi.PHYSDEVOP_map_pirq: _map_pirq,
    abi.PHYSDEVOP_unmap_pirq: _unmap_pirq,
    abi.PHYSDEVOP_setup_gsi: _setup_gsi,
    abi.PHYSDEVOP_restore_msi: _restore_msi,
    abi.PHYSDEVOP_restore_msi_ext: _restore_msi_ext,
    abi.PHYSDEVOP_manage_pci_add_ext: _manage_pci_add_ext,
}

# For domain 0. Those that read their argument before they ask who calls:
_CONFIGURATION: Final[dict[int, Layout]] = {
    abi.PHYSDEVOP_apic_read: abi.PHYSDEV_APIC,
    abi.PHYSDEVOP_apic_write: abi.PHYSDEV_APIC,
    abi.PHYSDEVOP_alloc_irq_vector: abi.PHYSDEV_IRQ,
    abi.PHYSDEVOP_manage_pci_add: abi.PHYSDEV_MANAGE_PCI,
    abi.PHYSDEVOP_manage_pci_remove: abi.PHYSDEV_MANAGE_PCI,
    abi.PHYSDEVOP_prepare_msix: abi.PHYSDEV_PCI_DEVICE,
    abi.PHYSDEVOP_release_msix: abi.PHYSDEV_PCI_DEVICE,
    abi.PHYSDEVOP_pci_device_add: abi.PHYSDEV_PCI_DEVICE_ADD,
    abi.PHYSDEVOP_pci_device_remove: abi.PHYSDEV_PCI_DEVICE,
}
_ABSENT: Final = (abi.PHYSDEVOP_free_irq_vector, abi.PHYSDEVOP_pci_device_reset)
