# SPDX-License-Identifier: GPL-2.0-or-later
"""Every hypercall that takes a pointer, with every kind of bad pointer."""

from __future__ import annotations

import pytest
from small_domain import BAD_POINTERS, LAST_SCRATCH, READ_ONLY, SmallDomain

from pyxen.abi import callback, event_channel, grant_table, memory, nmi, physdev, sched, vcpu, xen
from pyxen.abi import version as xenver
from pyxen.abi.errno import EFAULT, EINVAL
from pyxen.hypervisor.page_flags import PAGE_SIZE

# name: (hypercall, arguments before the pointer, arguments behind it)
READS = {
    "set_trap_table": (xen.HYPERVISOR_set_trap_table, (), ()),
    "mmu_update": (xen.HYPERVISOR_mmu_update, (), (1, 0, xen.DOMID_SELF)),
    "mmuext_op": (xen.HYPERVISOR_mmuext_op, (), (1, 0, xen.DOMID_SELF)),
    "set_gdt": (xen.HYPERVISOR_set_gdt, (), (1,)),
    "multicall": (xen.HYPERVISOR_multicall, (), (1,)),
    "callback_op register": (
        xen.HYPERVISOR_callback_op, (callback.CALLBACKOP_register,), ()),
    "callback_op unregister": (
        xen.HYPERVISOR_callback_op, (callback.CALLBACKOP_unregister,), ()),
    "nmi_op": (xen.HYPERVISOR_nmi_op, (nmi.XENNMI_register_callback,), ()),
    "physdev_op set_iopl": (xen.HYPERVISOR_physdev_op, (physdev.PHYSDEVOP_set_iopl,), ()),
    "physdev_op set_iobitmap": (
        xen.HYPERVISOR_physdev_op, (physdev.PHYSDEVOP_set_iobitmap,), ()),
    "sched_op poll": (xen.HYPERVISOR_sched_op, (sched.SCHEDOP_poll,), ()),
    "sched_op shutdown": (xen.HYPERVISOR_sched_op, (sched.SCHEDOP_shutdown,), ()),
    "sched_op shutdown_code": (xen.HYPERVISOR_sched_op, (sched.SCHEDOP_shutdown_code,), ()),
    "sched_op remote_shutdown": (
        xen.HYPERVISOR_sched_op, (sched.SCHEDOP_remote_shutdown,), ()),
    "console_io": (xen.HYPERVISOR_console_io, (xen.CONSOLEIO_write, 2), ()),
    "event_channel_op_compat": (xen.HYPERVISOR_event_channel_op_compat, (), ()),
    "get_features": (xen.HYPERVISOR_xen_version, (xenver.XENVER_get_features,), ()),
    **{
        f"event_channel_op {name}": (xen.HYPERVISOR_event_channel_op, (number,), ())
        for number, name in event_channel.EVTCHNOP_NAMES.items()
        if name in (
            "bind_interdomain", "bind_virq", "bind_pirq", "close", "send", "status",
            "alloc_unbound", "bind_ipi", "bind_vcpu", "unmask", "reset",
        )
    },
    **{
        f"vcpu_op {vcpu.VCPUOP_NAMES[number]}": (xen.HYPERVISOR_vcpu_op, (number, 0), ())
        for number in (
            vcpu.VCPUOP_initialise, vcpu.VCPUOP_register_runstate_memory_area,
            vcpu.VCPUOP_register_vcpu_info, vcpu.VCPUOP_set_singleshot_timer,
            vcpu.VCPUOP_set_periodic_timer,
        )
    },
    **{
        f"memory_op {memory.XENMEM_NAMES[number]}": (xen.HYPERVISOR_memory_op, (number,), ())
        for number in (
            memory.XENMEM_current_reservation, memory.XENMEM_maximum_reservation,
            memory.XENMEM_maximum_gpfn, memory.XENMEM_memory_map,
            memory.XENMEM_machphys_mfn_list,
        )
    },
    **{
        f"grant_table_op {grant_table.GNTTABOP_NAMES[number]}": (
            xen.HYPERVISOR_grant_table_op, (number,), (1,))
        for number in (
            grant_table.GNTTABOP_setup_table, grant_table.GNTTABOP_query_size,
            grant_table.GNTTABOP_get_version, grant_table.GNTTABOP_set_version,
            grant_table.GNTTABOP_get_status_frames, grant_table.GNTTABOP_map_grant_ref,
            grant_table.GNTTABOP_unmap_grant_ref, grant_table.GNTTABOP_unmap_and_replace,
            grant_table.GNTTABOP_transfer, grant_table.GNTTABOP_copy,
            grant_table.GNTTABOP_swap_grant_ref, grant_table.GNTTABOP_cache_flush,
        )
    },
}  # fmt: skip
WRITES = {
    **{
        f"xen_version {number}": (xen.HYPERVISOR_xen_version, (number,), ())
        for number in (
            xenver.XENVER_extraversion, xenver.XENVER_compile_info, xenver.XENVER_capabilities,
            xenver.XENVER_changeset, xenver.XENVER_platform_parameters,
            xenver.XENVER_guest_handle, xenver.XENVER_commandline,
        )
    },
    "get_runstate_info": (
        xen.HYPERVISOR_vcpu_op, (vcpu.VCPUOP_get_runstate_info, 0), ()),
    "machphys_mapping": (xen.HYPERVISOR_memory_op, (memory.XENMEM_machphys_mapping,), ()),
}  # fmt: skip
POINTERS = {**READS, **WRITES}
# A null pointer has a meaning of its own.
NULL_IS_GOOD = ("set_trap_table",)


@pytest.mark.parametrize("kind", BAD_POINTERS)
@pytest.mark.parametrize("name", POINTERS)
def test_bad_pointer_is_refused_and_changes_nothing(
    guest: SmallDomain, name: str, kind: str
) -> None:
    if kind == "null" and name in NULL_IS_GOOD:
        pytest.skip("a null pointer is allowed here")
    number, before, behind = POINTERS[name]
    pointer = BAD_POINTERS[kind]
    snapshot, ports = guest.snapshot(), bytes(guest.domain.events.ports.state)
    assert guest.call(number, *before, pointer, *behind) == -EFAULT
    if name in WRITES and kind == "crossing a page end":
        guest.write(pointer, b"\0")  # what lies before the page end may have been written
    assert guest.snapshot() == snapshot
    assert bytes(guest.domain.events.ports.state) == ports
    assert not guest.domain.stopping
    assert guest.vcpu.runnable


@pytest.mark.parametrize("name", WRITES)
def test_read_only_target_is_refused(guest: SmallDomain, name: str) -> None:
    number, before, behind = WRITES[name]
    snapshot = guest.snapshot()
    assert guest.call(number, *before, guest.address(READ_ONLY), *behind) == -EFAULT
    assert guest.snapshot() == snapshot


@pytest.mark.parametrize(
    ("operation", "layout", "values"),
    [
        (event_channel.EVTCHNOP_bind_ipi, event_channel.EVTCHN_BIND_IPI, (0, 0)),
        (event_channel.EVTCHNOP_bind_virq, event_channel.EVTCHN_BIND_VIRQ, (0, 0, 0)),
        (
            event_channel.EVTCHNOP_alloc_unbound,
            event_channel.EVTCHN_ALLOC_UNBOUND,
            (xen.DOMID_SELF, 0, 0),
        ),
    ],
)
def test_port_that_cannot_be_told_is_not_bound(
    guest: SmallDomain, operation: int, layout: object, values: tuple[int, ...]
) -> None:
    """Xen leaves it bound ("a mess"); a guest cannot tell, as it does not know the number."""
    address = guest.maddr(READ_ONLY)
    data = layout.pack(*values)  # type: ignore[attr-defined]
    guest.memory.bytes[address : address + len(data)] = data
    pointer = guest.address(READ_ONLY)
    assert guest.call(xen.HYPERVISOR_event_channel_op, operation, pointer) == -EFAULT
    assert not guest.domain.events.statistics()
    assert not guest.domain.events.virq_port(xen.VIRQ_TIMER)


@pytest.mark.parametrize("kind", BAD_POINTERS)
def test_bad_count_pointer_is_passed_over(guest: SmallDomain, kind: str) -> None:
    """Xen does not look whether the count of what was done can be stored."""
    request = guest.put(xen.MMU_UPDATE.pack(guest.maddr(20), 0x1234))
    done = BAD_POINTERS[kind]
    if kind == "crossing a page end":
        done = LAST_SCRATCH - 2
    assert guest.call(xen.HYPERVISOR_mmu_update, request, 1, done, xen.DOMID_SELF) == 0
    assert guest.entry(20, 0) == 0x1234


@pytest.mark.parametrize("kind", BAD_POINTERS)
@pytest.mark.parametrize("operation", [xen.MMUEXT_TLB_FLUSH_MULTI, xen.MMUEXT_INVLPG_MULTI])
def test_bad_vcpu_mask_is_einval(guest: SmallDomain, operation: int, kind: str) -> None:
    pointer = guest.put_struct(xen.MMUEXT_OP, operation, guest.address(8), BAD_POINTERS[kind])
    flushes = len(guest.engine.flushes)
    result = guest.call(xen.HYPERVISOR_mmuext_op, pointer, 1, 0, xen.DOMID_SELF)
    assert result == -EINVAL
    assert len(guest.engine.flushes) == flushes


def test_structure_may_cross_into_a_mapped_page(guest: SmallDomain) -> None:
    place = guest.put_struct(
        callback.CALLBACK_REGISTER, callback.CALLBACKTYPE_event, 0, 0x1234, offset=PAGE_SIZE - 4
    )
    operation = callback.CALLBACKOP_register
    assert guest.call(xen.HYPERVISOR_callback_op, operation, place) == 0
    assert guest.vcpu.event_callback == 0x1234
