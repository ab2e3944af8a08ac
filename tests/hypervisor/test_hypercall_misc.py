# SPDX-License-Identifier: GPL-2.0-or-later
"""The dispatcher, multicall, xen_version, console_io, vm_assist, physdev_op."""

from __future__ import annotations

import json
import struct

import pytest
from small_domain import FREE, L1, LAST_SCRATCH, NOT_MAPPED, READ_ONLY, STACK, SmallDomain

from pyxen.abi import arch_x86_64 as arch
from pyxen.abi import physdev, sched, xen
from pyxen.abi import version as abi
from pyxen.abi.errno import E2BIG, EBUSY, EFAULT, EINVAL, ENOSYS, EPERM
from pyxen.abi.features import XENFEAT_pae_pgdir_above_4gb
from pyxen.errors import XenError
from pyxen.hypervisor.features import FEATURES
from pyxen.hypervisor.instruments import Instrument
from pyxen.hypervisor.page_flags import PAGE_SIZE
from pyxen.hypervisor.page_types import WRITABLE
from pyxen.hypervisor.vcpu import Vcpu

HIGH = 1 << 32
ENTRY = xen.MULTICALL_ENTRY


def put_calls(guest: SmallDomain, *calls: tuple[int, ...], offset: int = 0) -> int:
    """Multicall entries; results are filled with 0xAA to see which were stored."""
    data = b"".join(
        struct.pack("<8Q", number, 0xAAAA, *[*arguments, 0, 0, 0, 0, 0, 0][:6])
        for number, *arguments in calls
    )
    return guest.put(data, offset)


def results(guest: SmallDomain, address: int, count: int) -> list[int]:
    return [
        struct.unpack("<q", guest.read(address + n * ENTRY.size + 8, 8))[0] for n in range(count)
    ]


class TestDispatcher:
    @pytest.mark.parametrize("number", [63, 64, 1000, HIGH | 17, (1 << 64) - 1])
    def test_unknown_numbers(self, guest: SmallDomain, number: int) -> None:
        assert guest.call(number) == -ENOSYS

    def test_counts_and_history(self, guest: SmallDomain) -> None:
        guest.call(xen.HYPERVISOR_xen_version, 0, 5)
        guest.call(xen.HYPERVISOR_xen_version, 99)
        statistics = guest.domain.statistics()
        count, ns = statistics.hypercalls["xen_version"]
        assert count == 2
        assert ns > 0
        assert guest.domain.counters.last_hypercalls() == [
            (0, xen.HYPERVISOR_xen_version, 0, 5, 0x40011),
            (0, xen.HYPERVISOR_xen_version, 99, 0, -ENOSYS),
        ]

    def test_inner_calls_are_not_counted_twice(self, guest: SmallDomain) -> None:
        calls = put_calls(guest, *[(xen.HYPERVISOR_xen_version, 0)] * 30)
        guest.call(xen.HYPERVISOR_multicall, calls, 30)
        statistics = guest.domain.statistics()
        assert statistics.hypercalls["xen_version"][0] == 30
        assert statistics.hypercalls["multicall"][0] == 1
        assert sum(ns for _, ns in statistics.hypercalls.values()) <= statistics.wall_ns

    def test_statistics_are_a_snapshot(self, guest: SmallDomain) -> None:
        before = guest.domain.statistics()
        guest.call(xen.HYPERVISOR_xen_version)
        assert "xen_version" not in before.hypercalls
        assert guest.domain.statistics().to_dict()["hypercalls"]["xen_version"][0] == 1

    def test_all_of_the_statistics_can_be_shown_as_json(self, guest: SmallDomain) -> None:
        port = guest.domain.events.alloc_unbound(0)
        shown = json.loads(json.dumps(guest.domain.statistics().to_dict()))
        assert shown["ports"][str(port)]["kind"] == "unbound"

    def test_unknown_calls_are_reported_once(
        self, guest: SmallDomain, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(3):
            guest.call(xen.HYPERVISOR_arch_7, 0)
        assert caplog.text.count("arch_7") == 1

    def test_instruments_see_and_refuse(self, guest: SmallDomain) -> None:
        seen: list[tuple[object, ...]] = []

        class Watch(Instrument):
            def before_hypercall(self, vcpu: Vcpu, number: int, arguments: tuple[int, ...]) -> None:
                seen.append((number, arguments))
                if arguments[0] == 1:
                    raise XenError(EPERM)

            def after_hypercall(self, vcpu: Vcpu, number: int, result: int) -> None:
                seen.append((number, result))

        guest.domain.instruments.append(Watch())
        call = xen.HYPERVISOR_stack_switch
        assert guest.call(call, 1, 0x1000) == -EPERM
        assert guest.vcpu.kernel_sp != 0x1000
        assert guest.call(call, 3, 0x1000) == 0
        assert seen == [
            (call, (1, 0x1000, 0, 0, 0)),
            (call, -EPERM),
            (call, (3, 0x1000, 0, 0, 0)),
            (call, 0),
        ]


class TestMulticall:
    def test_results_in_order(self, guest: SmallDomain) -> None:
        calls = put_calls(
            guest,
            (xen.HYPERVISOR_xen_version, 0),
            (xen.HYPERVISOR_set_segment_base, 99, 0),
            (63,),
            (xen.HYPERVISOR_stack_switch, 0x2B, 0x7000),
            (xen.HYPERVISOR_stack_switch, 0x2B, 0x8000),
        )
        assert guest.call(xen.HYPERVISOR_multicall, calls, 5) == 0
        assert results(guest, calls, 5) == [0x40011, -EINVAL, -ENOSYS, 0, 0]
        assert guest.vcpu.kernel_sp == 0x8000

    def test_a_stop_from_another_thread_ends_it(self, guest: SmallDomain) -> None:
        calls = put_calls(
            guest,
            (xen.HYPERVISOR_stack_switch, 0x2B, 0x7000),
            (xen.HYPERVISOR_stack_switch, 0x2B, 0x8000),
        )
        guest.domain.post(lambda: guest.domain.stop("posted"))
        guest.call(xen.HYPERVISOR_multicall, calls, 2)
        assert guest.domain.stopping == "posted"
        assert guest.vcpu.kernel_sp == 0x7000

    def test_multicall_in_a_multicall(self, guest: SmallDomain) -> None:
        calls = put_calls(guest, (xen.HYPERVISOR_multicall, guest.address(8), 0))
        assert guest.call(xen.HYPERVISOR_multicall, calls, 1) == 0
        assert results(guest, calls, 1) == [-EINVAL]

    def test_all_64_bits_of_the_number_count(self, guest: SmallDomain) -> None:
        calls = put_calls(guest, (HIGH | xen.HYPERVISOR_xen_version,))
        guest.call(xen.HYPERVISOR_multicall, calls, 1)
        assert results(guest, calls, 1) == [-ENOSYS]

    def test_list_that_ends_in_nothing(self, guest: SmallDomain) -> None:
        start = LAST_SCRATCH - 2 * ENTRY.size
        put_calls(
            guest,
            (xen.HYPERVISOR_stack_switch, 0x2B, 0x7000),
            (xen.HYPERVISOR_stack_switch, 0x2B, 0x8000),
            offset=start - guest.address(6),
        )
        assert guest.call(xen.HYPERVISOR_multicall, start, 3) == -EFAULT
        assert results(guest, start, 2) == [0, 0]
        assert guest.vcpu.kernel_sp == 0x8000

    def test_result_that_cannot_be_stored_ends_it_after_the_call(self, guest: SmallDomain) -> None:
        data = struct.pack("<8Q", xen.HYPERVISOR_stack_switch, 0, 0x2B, 0x7000, 0, 0, 0, 0)
        start = guest.maddr(READ_ONLY)
        guest.memory.bytes[start : start + 128] = data * 2
        call = xen.HYPERVISOR_multicall
        assert guest.call(call, guest.address(READ_ONLY), 2) == -EFAULT
        assert guest.vcpu.kernel_sp == 0x7000
        assert guest.domain.statistics().hypercalls["stack_switch"][0] == 1

    def test_nothing_to_do(self, guest: SmallDomain) -> None:
        assert guest.call(xen.HYPERVISOR_multicall, 0, 0) == 0

    def test_iret_ends_it_with_its_own_rax(self, guest: SmallDomain) -> None:
        frame = arch.IRET_CONTEXT.pack(0x111, 2, 3, 0, 0x5000, 0xE030, 0x200, 0x6000, 0xE02B)
        guest.vcpu.cpu.registers.rsp = guest.write(guest.address(STACK), frame)
        calls = put_calls(
            guest,
            (xen.HYPERVISOR_xen_version, 0),
            (xen.HYPERVISOR_iret,),
            (xen.HYPERVISOR_stack_switch, 0x2B, 0x7000),
        )
        sp = guest.vcpu.kernel_sp
        assert guest.call(xen.HYPERVISOR_multicall, calls, 3) == 0x111
        assert guest.vcpu.cpu.registers.rip == 0x5000
        assert results(guest, calls, 3) == [0x40011, 0x111, 0xAAAA]
        assert guest.vcpu.kernel_sp == sp

    def test_shutdown_ends_it(self, guest: SmallDomain) -> None:
        call = (xen.HYPERVISOR_sched_op_compat, sched.SCHEDOP_shutdown, 0)
        calls = put_calls(guest, call, (xen.HYPERVISOR_stack_switch, 0x2B, 0x7000))
        guest.call(xen.HYPERVISOR_multicall, calls, 2)
        assert guest.vcpu.kernel_sp != 0x7000


class TestXenVersion:
    CALL = xen.HYPERVISOR_xen_version

    @pytest.mark.parametrize(
        ("command", "size", "start"),
        [
            (abi.XENVER_extraversion, abi.XEN_EXTRAVERSION_LEN, b"-pyxen\0"),
            (abi.XENVER_capabilities, abi.XEN_CAPABILITIES_INFO_LEN, b"xen-3.0-x86_64 \0"),
            (abi.XENVER_changeset, abi.XEN_CHANGESET_INFO_LEN, b"unavailable\0"),
            (abi.XENVER_commandline, 9, b"<denied>\0"),
        ],
    )
    def test_strings_fill_their_arrays_and_no_more(
        self, guest: SmallDomain, command: int, size: int, start: bytes
    ) -> None:
        place = guest.put(b"\xee" * (size + 1))
        assert guest.call(self.CALL, command | HIGH, place) == 0
        data = guest.read(place, size + 1)
        assert data == start.ljust(size, b"\0") + b"\xee"

    def test_numbers(self, guest: SmallDomain) -> None:
        assert guest.call(self.CALL, abi.XENVER_version, NOT_MAPPED) == 4 << 16 | 17
        assert guest.call(self.CALL, abi.XENVER_pagesize, 0) == PAGE_SIZE
        assert guest.call(self.CALL, abi.XENVER_pagesize, 1) == -EINVAL

    def test_features(self, guest: SmallDomain) -> None:
        place = guest.put_struct(abi.XEN_FEATURE_INFO, 0, 0)
        assert guest.call(self.CALL, abi.XENVER_get_features, place) == 0
        above_4gb = 1 << XENFEAT_pae_pgdir_above_4gb
        assert guest.read_struct(abi.XEN_FEATURE_INFO, place) == (0, FEATURES & ~above_4gb)
        assert above_4gb | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 13 | 1 << 17 == FEATURES
        guest.domain.vm_assist = 1 << xen.VMASST_TYPE_pae_extended_cr3
        guest.call(xen.HYPERVISOR_xen_version, abi.XENVER_get_features, place)
        assert guest.read_struct(abi.XEN_FEATURE_INFO, place) == (0, FEATURES)
        place = guest.put_struct(abi.XEN_FEATURE_INFO, 1, 0)
        assert guest.call(self.CALL, abi.XENVER_get_features, place) == -EINVAL

    def test_others(self, guest: SmallDomain) -> None:
        place = guest.address(6)
        assert guest.call(self.CALL, abi.XENVER_guest_handle, place) == 0
        assert guest.read(place, 16) == guest.domain.uuid.bytes
        assert guest.call(self.CALL, abi.XENVER_platform_parameters, place) == 0
        assert guest.read(place, 8) == (0xFFFF800000000000).to_bytes(8, "little")
        assert guest.call(self.CALL, abi.XENVER_compile_info, place) == 0
        said = abi.XEN_COMPILE_INFO.unpack(guest.read(place, abi.XEN_COMPILE_INFO.size))
        assert all(text.strip(b"\0") for text in said)
        assert guest.call(self.CALL, abi.XENVER_build_id, 0) == -EPERM
        assert guest.call(self.CALL, 99, 0) == -ENOSYS


class TestConsoleIo:
    CALL = xen.HYPERVISOR_console_io

    def test_write(self, guest: SmallDomain) -> None:
        text = bytes(range(256)) * 20
        place = guest.put(text, PAGE_SIZE - 100)
        assert guest.call(self.CALL, xen.CONSOLEIO_write, HIGH | len(text), place) == 0
        assert b"".join(guest.output) == text
        assert guest.call(self.CALL, xen.CONSOLEIO_write, 0, 0) == 0

    def test_what_is_readable_is_printed(self, guest: SmallDomain) -> None:
        start = LAST_SCRATCH - PAGE_SIZE
        assert guest.call(self.CALL, xen.CONSOLEIO_write, PAGE_SIZE + 1, start) == -EFAULT
        assert len(b"".join(guest.output)) == PAGE_SIZE

    def test_read_and_others(self, guest: SmallDomain) -> None:
        assert guest.call(self.CALL, xen.CONSOLEIO_read, 100, 0) == 0
        assert guest.call(self.CALL, xen.CONSOLEIO_read, 1 << 31, 0) == -E2BIG
        assert guest.call(self.CALL, 2, 0, 0) == -ENOSYS


def test_vm_assist(guest: SmallDomain) -> None:
    call = xen.HYPERVISOR_vm_assist
    kind = xen.VMASST_TYPE_architectural_iopl
    assert guest.call(call, xen.VMASST_CMD_enable | HIGH, kind | HIGH) == 0
    assert guest.domain.architectural_iopl
    assert guest.call(call, xen.VMASST_CMD_disable, kind) == 0
    assert not guest.domain.architectural_iopl
    assert guest.call(call, 5, kind) == -ENOSYS
    for unknown in (6, 31, 64, 0xFFFFFFFF):
        assert guest.call(call, xen.VMASST_CMD_enable, unknown) == -EINVAL
        assert guest.call(call, 5, unknown) == -EINVAL


def test_physdev_op(guest: SmallDomain) -> None:
    call = xen.HYPERVISOR_physdev_op
    for iopl, result in ((3, 0), (4, -EINVAL), (0xFFFFFFFF, -EINVAL)):
        place = guest.put_struct(physdev.PHYSDEV_SET_IOPL, iopl)
        assert guest.call(call, physdev.PHYSDEVOP_set_iopl | HIGH, place) == result
    assert guest.vcpu.iopl == 3
    for ports, result in ((65536, 0), (65537, -EINVAL)):
        place = guest.put_struct(physdev.PHYSDEV_SET_IOBITMAP, guest.address(7), ports)
        assert guest.call(call, physdev.PHYSDEVOP_set_iobitmap, place) == result
    assert guest.call(call, 9999, 0) == -ENOSYS


@pytest.mark.parametrize(
    "command", [physdev.PHYSDEVOP_pirq_eoi_gmfn_v1, physdev.PHYSDEVOP_pirq_eoi_gmfn_v2]
)
def test_page_for_acknowledgements_is_held(guest: SmallDomain, command: int) -> None:
    call, free = xen.HYPERVISOR_physdev_op, guest.mfn(FREE)

    def name(mfn: int) -> int:
        return guest.call(call, command, guest.put_struct(physdev.PHYSDEV_PIRQ_EOI_GMFN, mfn))

    for bad in (guest.mfn(L1), 0, 1 << 40, (1 << 64) - 1):
        assert name(bad) == -EINVAL
    before = guest.tables.refs[free]
    assert name(free) == 0
    assert (guest.tables.types[free], guest.tables.refs[free]) == (WRITABLE, before + 1)
    assert name(free) == -EBUSY
    assert guest.tables.refs[free] == before + 1
    assert guest.domain.audit() == []


def test_acknowledgement_of_a_number_that_the_guest_has(guest: SmallDomain) -> None:
    call = xen.HYPERVISOR_physdev_op
    place = guest.put_struct(physdev.PHYSDEV_GET_FREE_PIRQ, physdev.MAP_PIRQ_TYPE_GSI, 0)
    assert guest.call(call, physdev.PHYSDEVOP_get_free_pirq, place) == 0
    (pirq,) = guest.domain.pirqs
    for irq, result in ((pirq, 0), (pirq + 1, -EINVAL), (0xFFFFFFFF, -EINVAL)):
        place = guest.put_struct(physdev.PHYSDEV_EOI, irq)
        assert guest.call(call, physdev.PHYSDEVOP_eoi, place) == result
