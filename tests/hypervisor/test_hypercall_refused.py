# SPDX-License-Identifier: GPL-2.0-or-later
"""Hypercalls that a domU is refused: the error number, and what is checked before."""

from __future__ import annotations

import struct

import pytest
from small_domain import BAD_POINTERS, SmallDomain

from pyxen.abi import physdev, xen
from pyxen.abi.errno import (
    E2BIG,
    EACCES,
    EFAULT,
    EINVAL,
    ENODEV,
    ENOSPC,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
)
from pyxen.hypervisor.hypercalls import hvm_op

SELF = xen.DOMID_SELF
OWN = 1


@pytest.mark.parametrize(
    ("number", "version"),
    [(xen.HYPERVISOR_platform_op, 0x03000001), (xen.HYPERVISOR_sysctl, 0x15)],
)
def test_version_is_looked_at_before_the_caller(
    guest: SmallDomain, number: int, version: int
) -> None:
    for given, error in ((version, EPERM), (version + 1, EACCES)):
        argument = guest.put(struct.pack("<II128x", 17, given))
        assert guest.call(number, argument) == -error


@pytest.mark.parametrize(
    ("command", "domid", "error"),
    [
        (1, SELF, EPERM),  # createdomain
        (5, 99, EPERM),  # getdomaininfo
        (2, OWN, EPERM),  # destroydomain
        (2, 0, EPERM),
        (2, 99, ESRCH),
        (2, SELF, ESRCH),
        (37, 0x7FF1, EPERM),  # assign_device to DOMID_IO
        (37, 0x7FF4, ESRCH),
        (45, 0x7FF4, EPERM),  # test_assign_device
        (45, 99, ESRCH),
    ],
)
def test_domctl(guest: SmallDomain, command: int, domid: int, error: int) -> None:
    for version, result in ((0x15, error), (0x16, EACCES)):
        argument = guest.put(struct.pack("<IIH134x", command, version, domid))
        assert guest.call(xen.HYPERVISOR_domctl, argument) == -result


@pytest.mark.parametrize(
    ("command", "domid", "error"), [(10, OWN, EPERM), (10, 99, ESRCH), (2, OWN, EOPNOTSUPP)]
)
def test_continuation_of_domctl(guest: SmallDomain, command: int, domid: int, error: int) -> None:
    argument = guest.put(struct.pack("<IIH134x", command, 0x15, domid))
    assert guest.call(xen.HYPERVISOR_arch_1, argument) == -error


@pytest.mark.parametrize(
    "number",
    [
        xen.HYPERVISOR_platform_op,
        xen.HYPERVISOR_sysctl,
        xen.HYPERVISOR_domctl,
        xen.HYPERVISOR_arch_1,
    ],
)
@pytest.mark.parametrize("pointer", BAD_POINTERS)
def test_bad_pointer(guest: SmallDomain, number: int, pointer: str) -> None:
    assert guest.call(number, BAD_POINTERS[pointer]) == -EFAULT


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (xen.HYPERVISOR_kexec_op, EPERM),
        (xen.HYPERVISOR_hypfs_op, EPERM),
        (xen.HYPERVISOR_arch_0, EPERM),  # mca
        (xen.HYPERVISOR_xenpmu_op, EOPNOTSUPP),
        (xen.HYPERVISOR_xsm_op, ENOSYS),
        (xen.HYPERVISOR_tmem_op, ENOSYS),
        (xen.HYPERVISOR_argo_op, ENOSYS),
        *((number, ENOSYS) for number in range(xen.HYPERVISOR_arch_2, xen.HYPERVISOR_arch_7 + 1)),
        (11, ENOSYS),
        (43, ENOSYS),
        (1 << 40, ENOSYS),
    ],
)
def test_whatever_the_arguments(guest: SmallDomain, number: int, error: int) -> None:
    before = guest.snapshot()
    for arguments in ((), (0, guest.address(6)), ((1 << 64) - 1,) * 5):
        assert guest.call(number, *arguments) == -error
    assert guest.snapshot() == before


@pytest.mark.parametrize(
    ("operation", "error"),
    [(0, ENODEV), (1, EPERM), (12, ENODEV), (16, EPERM), (17, EINVAL), (0xFFFFFFFF, EINVAL)],
)
def test_xenoprof(guest: SmallDomain, operation: int, error: int) -> None:
    assert guest.call(xen.HYPERVISOR_xenoprof_op, operation) == -error


@pytest.mark.parametrize(
    ("domid", "count", "pointer", "error"),
    [
        (SELF, 3, 0, E2BIG),
        (SELF, 1, BAD_POINTERS["unmapped"], EFAULT),
        (SELF, 0, 0, EPERM),
        (OWN, 0, 0, EPERM),
        (0, 0, 0, EINVAL),
        (99, 0, 0, ESRCH),
    ],
)
def test_dm_op(guest: SmallDomain, domid: int, count: int, pointer: int, error: int) -> None:
    assert guest.call(xen.HYPERVISOR_dm_op, domid, count, pointer) == -error


@pytest.mark.parametrize(
    ("operation", "domid", "index", "error"),
    [
        (hvm_op.HVMOP_set_param, SELF, 1, EINVAL),
        (hvm_op.HVMOP_get_param, 99, 1, ESRCH),
        (hvm_op.HVMOP_get_param, 99, 39, EINVAL),
        (hvm_op.HVMOP_get_mem_type, OWN, 0, EINVAL),
        (hvm_op.HVMOP_pagetable_dying, SELF, 0, EINVAL),
        (hvm_op.HVMOP_pagetable_dying, 0, 0, EOPNOTSUPP),
        (hvm_op.HVMOP_flush_tlbs, SELF, 0, EINVAL),
        (hvm_op.HVMOP_set_evtchn_upcall_vector, SELF, 0, EINVAL),
        (hvm_op.HVMOP_altp2m, SELF, 0, EOPNOTSUPP),
        (2, SELF, 0, ENOSYS),
    ],
)
def test_hvm_op(guest: SmallDomain, operation: int, domid: int, index: int, error: int) -> None:
    argument = guest.put(struct.pack("<HHIQ", domid, 0, index, 0))
    assert guest.call(xen.HYPERVISOR_hvm_op, operation, argument) == -error


def test_hvm_op_that_a_pv_domain_may_use(guest: SmallDomain) -> None:
    argument = guest.put(struct.pack("<HH28x", 0x123, 28))
    assert guest.call(xen.HYPERVISOR_hvm_op, hvm_op.HVMOP_xentrace, argument) == 0
    argument = guest.put(struct.pack("<HH28x", 0x123, 29))
    assert guest.call(xen.HYPERVISOR_hvm_op, hvm_op.HVMOP_xentrace, argument) == -EINVAL
    assert guest.call(xen.HYPERVISOR_hvm_op, hvm_op.HVMOP_guest_request_vm_event) == 0
    assert guest.call(xen.HYPERVISOR_hvm_op, hvm_op.HVMOP_get_time, argument) == 0
    assert struct.unpack("<Q", guest.read(argument, 8))[0] == guest.domain.clock.now()


PHYSDEV = [
    (physdev.PHYSDEVOP_eoi, struct.pack("<I", 3), -EINVAL),
    (physdev.PHYSDEVOP_irq_status_query, struct.pack("<II", 56, 0), -EINVAL),
    (physdev.PHYSDEVOP_irq_status_query, struct.pack("<II", 55, 0), 0),
    (physdev.PHYSDEVOP_IRQ_UNMASK_NOTIFY, b"", 0),
    (physdev.PHYSDEVOP_map_pirq, physdev.PHYSDEV_MAP_PIRQ.pack(SELF, 1, 0, 0, 0, 0, 0, 0), -EPERM),
    (physdev.PHYSDEVOP_map_pirq, physdev.PHYSDEV_MAP_PIRQ.pack(9, 1, 0, 0, 0, 0, 0, 0), -ESRCH),
    (physdev.PHYSDEVOP_map_pirq, physdev.PHYSDEV_MAP_PIRQ.pack(9, 4, 0, 0, 0, 0, 0, 8), -EINVAL),
    (physdev.PHYSDEVOP_unmap_pirq, physdev.PHYSDEV_UNMAP_PIRQ.pack(SELF, 1), -EPERM),
    (physdev.PHYSDEVOP_setup_gsi, physdev.PHYSDEV_SETUP_GSI.pack(23, 0, 0), -EPERM),
    (physdev.PHYSDEVOP_setup_gsi, physdev.PHYSDEV_SETUP_GSI.pack(-1, 0, 0), -EINVAL),
    (physdev.PHYSDEVOP_restore_msi, bytes(2), -19),
    (
        physdev.PHYSDEVOP_manage_pci_add_ext,
        physdev.PHYSDEV_MANAGE_PCI_EXT.pack(0, 0, 2, 0, 0, 0),
        -EINVAL,
    ),
    (physdev.PHYSDEVOP_apic_read, bytes(16), -EPERM),
    (physdev.PHYSDEVOP_pci_mmcfg_reserved, b"", -EPERM),
    (physdev.PHYSDEVOP_dbgp_op, b"", -EPERM),
    (physdev.PHYSDEVOP_free_irq_vector, b"", -ENOSYS),
    (33, b"", -ENOSYS),
]


@pytest.mark.parametrize(("operation", "argument", "result"), PHYSDEV)
def test_physdev_op(guest: SmallDomain, operation: int, argument: bytes, result: int) -> None:
    address = guest.put(argument.ljust(32, b"\0"))
    assert guest.call(xen.HYPERVISOR_physdev_op, operation, address) == result


def test_interrupt_numbers_are_given_until_there_are_none(guest: SmallDomain) -> None:
    got = []
    argument = guest.put(struct.pack("<iI", physdev.MAP_PIRQ_TYPE_MSI, 0))
    while not (
        result := guest.call(xen.HYPERVISOR_physdev_op, physdev.PHYSDEVOP_get_free_pirq, argument)
    ):
        got.append(struct.unpack("<iI", guest.read(argument, 8))[1])
    assert got == list(range(55, 23, -1))
    assert result == -ENOSPC
