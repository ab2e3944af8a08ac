# SPDX-License-Identifier: GPL-2.0-or-later
"""vcpu_op, sched_op and set_timer_op."""

from __future__ import annotations

import struct

import pytest
from small_domain import (
    BASE,
    FREE,
    L1,
    L4,
    LAST_SCRATCH,
    NON_CANONICAL,
    NOT_MAPPED,
    USER_L4,
    XEN_ADDRESS,
    SmallDomain,
    small_domain,
)

from pyxen.abi import arch_x86_64 as arch
from pyxen.abi import sched, vcpu, xen
from pyxen.abi.arch_x86_64 import FLAT_USER_CS64, FLAT_USER_DS
from pyxen.abi.errno import (
    EEXIST,
    EFAULT,
    EINVAL,
    ENOENT,
    ENOSPC,
    ENOSYS,
    ENXIO,
    EPERM,
    ESRCH,
    ETIME,
)
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.page_flags import PAGE_SIZE
from pyxen.hypervisor.timers import PERIODIC, SINGLE_SHOT
from pyxen.hypervisor.vcpu import Vcpu
from pyxen.hypervisor.vcpu_context import get_context

VCPU_OP = xen.HYPERVISOR_vcpu_op
SCHED_OP = xen.HYPERVISOR_sched_op
MS = 1_000_000
SECOND = 1000 * MS
HIGH = 1 << 32


def vcpu_op(guest: SmallDomain, command: int, index: int, layout: object, *values: object) -> int:
    return guest.call(VCPU_OP, command, index, guest.put_struct(layout, *values))


def read_shared_info(guest: SmallDomain) -> bytes:
    start = guest.memory.shared_info_mfn * PAGE_SIZE
    return bytes(guest.memory.bytes[start : start + PAGE_SIZE])


class TestUpAndDown:
    def context(self, guest: SmallDomain, **changes: int) -> int:
        """Writes a vcpu_guest_context to the scratch pages; returns its address."""
        layout = arch.VCPU_GUEST_CONTEXT
        data = bytearray(layout.size)

        def put(base: int, fields: object, name: str, value: int) -> None:
            start = base + fields.offsets[name]  # type: ignore[attr-defined]
            struct.pack_into("<Q", data, start, value)

        registers = layout.offsets["user_regs"]
        put(registers, arch.CPU_USER_REGS, "rip", 0x1234)
        put(registers, arch.CPU_USER_REGS, "rsp", 0x5678)
        put(registers, arch.CPU_USER_REGS, "rdi", 77)
        put(registers, arch.CPU_USER_REGS, "rflags", 0x3000)
        struct.pack_into("<8Q", data, layout.offsets["ctrlreg"], 0, 0, 0, guest.maddr(L4), *[0] * 4)
        struct.pack_into("<Q", data, layout.offsets["flags"], arch.VGCF_in_kernel)
        for name, value in changes.items():
            if name == "user_table":
                struct.pack_into("<Q", data, layout.offsets["ctrlreg"] + 8, value)
            elif name == "kernel_table":
                struct.pack_into("<Q", data, layout.offsets["ctrlreg"] + 24, value)
            elif name in arch.CPU_USER_REGS.offsets:
                put(registers, arch.CPU_USER_REGS, name, value)
            elif name == "gdt_frame":
                struct.pack_into("<Q", data, layout.offsets["gdt_frames"], value)
            elif name == "trap":
                struct.pack_into("<Q", data, layout.offsets["trap_ctxt"] + 8, value)
            elif name == "debugreg":
                struct.pack_into("<Q", data, layout.offsets["debugreg"], value)
            elif name == "trap_flags":
                data[layout.offsets["trap_ctxt"] + 1] = value
            else:
                put(0, layout, name, value)
        return guest.put(bytes(data))

    def test_initialise_and_up(self, guest2: SmallDomain) -> None:
        guest = guest2
        second = guest.domain.vcpus[1]
        assert guest.call(VCPU_OP, vcpu.VCPUOP_is_up, 1) == 0
        assert guest.call(VCPU_OP, vcpu.VCPUOP_up, 1) == -EINVAL
        place = self.context(
            guest,
            kernel_sp=0x9000,
            fs_base=1 << 40,
            gs_base_user=5,
            user_table=guest.maddr(USER_L4),
        )
        assert guest.call(VCPU_OP, vcpu.VCPUOP_initialise, 1, place) == 0
        assert guest.call(VCPU_OP, vcpu.VCPUOP_initialise, 1, place) == -EEXIST
        assert guest.call(VCPU_OP, vcpu.VCPUOP_initialise, 1, NOT_MAPPED) == -EFAULT
        assert guest.call(VCPU_OP, vcpu.VCPUOP_is_up, 1) == 0
        assert guest.call(VCPU_OP, vcpu.VCPUOP_up, 1) == 0
        assert guest.call(VCPU_OP, vcpu.VCPUOP_is_up | HIGH, 1 | HIGH) == 1
        registers = second.cpu.registers
        assert (registers.rip, registers.rsp, registers.rdi) == (0x1234, 0x5678, 77)
        assert (registers.fs_base, second.cpu.inactive_gs_base) == (1 << 40, 5)
        assert (registers.rflags, second.iopl) == (0x202, 3)
        assert second.kernel_sp == 0x9000
        assert guest.tables.type_counts[guest.mfn(L4)] == 3  # pinned, and two bases
        assert guest.tables.type_counts[guest.mfn(USER_L4)] == 1

    def test_online_flag_brings_it_up(self, guest2: SmallDomain) -> None:
        place = self.context(guest2, flags=arch.VGCF_in_kernel | arch.VGCF_online)
        assert guest2.call(VCPU_OP, vcpu.VCPUOP_initialise, 1, place) == 0
        assert guest2.domain.vcpus[1].runnable

    def start(self, guest: SmallDomain, **changes: int) -> Vcpu:
        place = self.context(guest, **changes)
        assert guest.call(VCPU_OP, vcpu.VCPUOP_initialise, 1, place) == 0
        return guest.domain.vcpus[1]

    @pytest.mark.parametrize("flags", [0, arch.VGCF_in_kernel])
    def test_a_context_can_be_read_back(self, guest2: SmallDomain, flags: int) -> None:
        """All of it: another vCPU that is given what was read is the same."""
        layout, registers = arch.VCPU_GUEST_CONTEXT, arch.CPU_USER_REGS.offsets
        vgcf = flags | arch.VGCF_i387_valid | arch.VGCF_failsafe_disables_events
        place = self.context(
            guest2,
            flags=vgcf,
            user_table=guest2.maddr(USER_L4),
            gdt_frame=guest2.mfn(FREE),
            gdt_ents=512,
            ldt_base=BASE,
            ldt_ents=7,
            kernel_ss=arch.FLAT_RING3_SS64,
            kernel_sp=0x9000,
            event_callback_eip=0x3000,
            failsafe_callback_eip=0x4000,
            syscall_callback_eip=0x5000,
            trap=0x6000,
            trap_flags=4,
            fs_base=1 << 40,
            gs_base_kernel=6,
            gs_base_user=5,
            cs=FLAT_USER_CS64,
            ss=arch.FLAT_RING3_SS64,
            r15=15,
            rflags=0x3202,
            debugreg=0x7000,
        )
        given = bytearray(guest_access.copy_from(guest2.vcpu, place, layout.size))
        assert guest2.call(VCPU_OP, vcpu.VCPUOP_initialise, 1, place) == 0
        second = guest2.domain.vcpus[1]
        read = get_context(second)
        for name, size in layout.sizes.items():
            if name in ("fpu_ctxt", "trap_ctxt", "ctrlreg", "debugreg"):
                continue
            start = layout.offsets[name]
            if name == "user_regs":  # Xen's mask of events is told with them
                given[start + registers["saved_upcall_mask"]] = 1
            assert read[start : start + size] == given[start : start + size], name
        assert read[: layout.sizes["fpu_ctxt"]] == given[: layout.sizes["fpu_ctxt"]]
        control = struct.unpack_from("<8Q", read, layout.offsets["ctrlreg"])
        assert (control[1], control[3]) == (guest2.maddr(USER_L4), guest2.maddr(L4))
        traps = arch.TRAP_INFO.iter_unpack(read[layout.offsets["trap_ctxt"] :][:4096])
        assert next(traps) == (0, 4, 3, 0x6000)
        assert struct.unpack_from("<Q", read, layout.offsets["debugreg"]) == (0x7000,)

    def test_start_in_user_mode(self, guest2: SmallDomain) -> None:
        second = self.start(
            guest2,
            flags=arch.VGCF_online,
            user_table=guest2.maddr(USER_L4),
            cs=arch.FLAT_USER_CS64,
            gs_base_user=7,
            gs_base_kernel=8,
        )
        assert second.cpu.user_mode
        assert (second.cpu.registers.gs_base, second.cpu.inactive_gs_base) == (7, 8)
        assert second.cpu.registers.cr3 == guest2.maddr(USER_L4)

    def test_flags_of_callbacks(self, guest2: SmallDomain) -> None:
        flags = arch.VGCF_in_kernel | arch.VGCF_failsafe_disables_events
        second = self.start(guest2, flags=flags, failsafe_callback_eip=5, syscall_callback_eip=6)
        assert (second.failsafe_callback, second.failsafe_masks_events) == (5, True)
        assert (second.syscall_callback, second.syscall_masks_events) == (6, False)

    def test_selectors_get_the_level_of_guests(self, guest2: SmallDomain) -> None:
        second = self.start(guest2, cs=0x10, ss=0x18, kernel_ss=0x18, ds=0x20)
        registers = second.cpu.registers
        assert (registers.cs, registers.ss, registers.ds) == (0x13, 0x1B, 0x20)
        assert second.kernel_ss == 0x1B

    def test_entry_vector_chooses_sysret(self, guest2: SmallDomain) -> None:
        second = self.start(guest2, cs=0x10, ss=0x18, entry_vector=256)
        registers = second.cpu.registers
        assert (registers.cs, registers.ss) == (arch.FLAT_KERNEL_CS, arch.FLAT_KERNEL_SS)

    def test_trap_table_is_taken_as_it_is(self, guest2: SmallDomain) -> None:
        second = self.start(guest2, trap=0, trap_flags=3)
        assert (second.trap_address[0], second.trap_flags[0]) == (0, 3)

    def test_debug_registers_that_cannot_be_set_are_passed_over(self, guest2: SmallDomain) -> None:
        second = self.start(guest2, debugreg=XEN_ADDRESS)
        assert second.debug_registers[0] == 0

    @pytest.mark.parametrize("valid", [0, arch.VGCF_i387_valid])
    def test_fpu(self, guest2: SmallDomain, valid: int) -> None:
        place = self.context(guest2, flags=arch.VGCF_in_kernel | valid)
        guest2.write(place, b"image")
        assert guest2.call(VCPU_OP, vcpu.VCPUOP_initialise, 1, place) == 0
        fpu = guest2.engine.cpus[1].fpu
        assert fpu == (b"image".ljust(512, b"\0") if valid else b"")

    def test_bad_selectors_are_told_when_it_runs(self, guest2: SmallDomain) -> None:
        """A stale ds first; then, as nothing is mapped at its stack, the end of the domain."""
        second = self.start(guest2, ds=0x7B, failsafe_callback_eip=0x5000, flags=36)
        second.cpu.registers.rsp = guest2.vcpu.kernel_sp
        guest2.domain.traps.return_to_guest(second)
        assert second.cpu.registers.rip == 0x5000
        assert second.cpu.registers.ds == 0

    def test_bad_code_selector_is_a_fault_when_it_runs(self, guest2: SmallDomain) -> None:
        second = self.start(guest2, cs=0x1234, flags=36)
        second.trap_address[13] = 0x6000
        second.cpu.registers.rsp = guest2.vcpu.kernel_sp
        guest2.domain.traps.return_to_guest(second)
        assert second.cpu.registers.rip == 0x6000
        error_code, rip = struct.unpack("<QQ", guest2.read(second.cpu.registers.rsp + 16, 16))
        assert (error_code, rip) == (0x1234, 0x1234)

    def test_descriptors_are_given_back_if_the_tables_are_refused(
        self, guest2: SmallDomain
    ) -> None:
        place = self.context(guest2, gdt_ents=1, gdt_frame=guest2.mfn(FREE), kernel_table=0)
        assert guest2.call(VCPU_OP, vcpu.VCPUOP_initialise, 1, place) == -EINVAL
        assert guest2.tables.type_counts[guest2.mfn(FREE)] == 0

    def test_send_nmi(self, guest2: SmallDomain) -> None:
        second = guest2.domain.vcpus[1]
        assert guest2.call(VCPU_OP, vcpu.VCPUOP_send_nmi, 1, 8) == -EINVAL
        assert not second.nmi_pending
        assert guest2.call(VCPU_OP, vcpu.VCPUOP_send_nmi, 1, 0) == 0
        assert second.nmi_pending
        assert guest2.call(VCPU_OP, vcpu.VCPUOP_send_nmi, 2, 0) == -ENOENT

    @pytest.mark.parametrize(
        "changes",
        [
            {"rip": NON_CANONICAL},
            {"rsp": NON_CANONICAL},
            {"kernel_sp": NON_CANONICAL},
            {"event_callback_eip": NON_CANONICAL},
            {"failsafe_callback_eip": NON_CANONICAL},
            {"syscall_callback_eip": NON_CANONICAL},
            {"fs_base": NON_CANONICAL},
            {"gs_base_kernel": NON_CANONICAL},
            {"gs_base_user": NON_CANONICAL},
            {"trap": NON_CANONICAL},
            {"flags": 0},
            {"ldt_base": XEN_ADDRESS},
            {"ldt_base": 8},
            {"ldt_ents": 8193},
            {"kernel_table": 0},
            {"kernel_table": (1 << 52) - PAGE_SIZE},
            {"user_table": 0x2000},
            {"gdt_ents": 8192},
            {"gdt_ents": 1, "gdt_frame": 5},
        ],
        ids="+".join,
    )
    def test_states_that_a_vcpu_cannot_have(
        self, guest2: SmallDomain, changes: dict[str, int]
    ) -> None:
        place = self.context(guest2, **changes)
        snapshot = guest2.snapshot()
        assert guest2.call(VCPU_OP, vcpu.VCPUOP_initialise, 1, place) == -EINVAL
        assert guest2.snapshot() == snapshot
        assert guest2.call(VCPU_OP, vcpu.VCPUOP_up, 1) == -EINVAL
        good = self.context(guest2)
        assert guest2.call(VCPU_OP, vcpu.VCPUOP_initialise, 1, good) == 0

    def test_down(self, guest2: SmallDomain) -> None:
        guest2.call(VCPU_OP, vcpu.VCPUOP_initialise, 1, self.context(guest2))
        guest2.call(VCPU_OP, vcpu.VCPUOP_up, 1)
        assert guest2.call(VCPU_OP, vcpu.VCPUOP_down, 1) == 0
        assert guest2.call(VCPU_OP, vcpu.VCPUOP_is_up, 1) == 0
        assert not guest2.domain.stopping
        assert guest2.call(VCPU_OP, vcpu.VCPUOP_down, 0) == 0
        assert guest2.domain.stopping == "poweroff"  # none is left

    def test_up_does_not_end_a_wait(self, guest: SmallDomain) -> None:
        guest.vcpu.blocked = True
        assert guest.call(VCPU_OP, vcpu.VCPUOP_up, 0) == 0
        assert guest.vcpu.blocked

    def test_no_such_vcpu_or_command(self, guest: SmallDomain) -> None:
        assert guest.call(VCPU_OP, vcpu.VCPUOP_is_up, 1) == -ENOENT
        assert guest.call(VCPU_OP, 99, 1) == -ENOENT
        assert guest.call(VCPU_OP, 99, 0) == -ENOSYS
        assert guest.call(VCPU_OP, vcpu.VCPUOP_get_physid, 0, 0) == -EINVAL


class TestVcpuInfo:
    def register(self, guest: SmallDomain, index: int, mfn: int, offset: int) -> int:
        return vcpu_op(
            guest,
            vcpu.VCPUOP_register_vcpu_info,
            index,
            vcpu.VCPU_REGISTER_VCPU_INFO,
            mfn,
            offset,
            0,
        )

    def test_moves_and_marks_all_pending(self, guest: SmallDomain) -> None:
        guest.set_upcall_mask(1)
        guest.host.ns += 10**9
        assert self.register(guest, 0, guest.mfn(FREE), 64) == 0
        assert guest.vcpu.info == guest.maddr(FREE, 64)
        assert guest.pending_selector() == (1 << 64) - 1
        assert (guest.upcall_pending(), guest.upcall_mask()) == (1, 1)
        port = guest.domain.events.bind_ipi(0)
        guest.take_events()
        guest.domain.events.send(port)
        assert guest.memory.bytes[guest.maddr(FREE, 64)] == 1

    def test_second_time_is_refused(self, guest: SmallDomain) -> None:
        """EINVAL in Xen 4.17, EBUSY in later ones."""
        assert self.register(guest, 0, guest.mfn(FREE), 0) == 0
        assert self.register(guest, 0, guest.mfn(FREE + 1), 0) == -EINVAL
        assert guest.vcpu.info == guest.maddr(FREE)

    @pytest.mark.parametrize("offset", [PAGE_SIZE - 56, PAGE_SIZE, 0xFFFFFFF8, 4, 1])
    def test_places_across_pages_or_not_aligned(self, guest: SmallDomain, offset: int) -> None:
        assert self.register(guest, 0, guest.mfn(FREE), offset) == -ENXIO

    @pytest.mark.parametrize("pfn", [L1, -5, 5000])
    def test_frames_that_are_not_writable(self, guest: SmallDomain, pfn: int) -> None:
        snapshot = guest.snapshot()
        assert self.register(guest, 0, guest.mfn(pfn), 0) == -EINVAL
        assert guest.snapshot()[PAGE_SIZE * 7 :] == snapshot[PAGE_SIZE * 7 :]
        assert not guest.vcpu.info_registered

    def test_of_another_vcpu_only_while_it_is_down(self, guest2: SmallDomain) -> None:
        second = guest2.domain.vcpus[1]
        second.up = True
        assert self.register(guest2, 1, guest2.mfn(FREE), 0) == -EINVAL
        second.up = False
        assert self.register(guest2, 1, guest2.mfn(FREE), 0) == 0
        assert guest2.upcall_mask(second) == 1


class TestTimers:
    def set_singleshot(self, guest: SmallDomain, time: int, flags: int = 0, index: int = 0) -> int:
        return vcpu_op(
            guest,
            vcpu.VCPUOP_set_singleshot_timer,
            index,
            vcpu.VCPU_SET_SINGLESHOT_TIMER,
            time,
            flags,
        )

    def set_periodic(self, guest: SmallDomain, period: int) -> int:
        layout = vcpu.VCPU_SET_PERIODIC_TIMER
        return vcpu_op(guest, vcpu.VCPUOP_set_periodic_timer, 0, layout, period)

    def fired(self, guest: SmallDomain) -> bool:
        """Whether VIRQ_TIMER has been raised since the last question."""
        events = guest.domain.events
        port = events.virq_port(xen.VIRQ_TIMER) or events.bind_virq(xen.VIRQ_TIMER, 0)
        guest.domain.attend()
        pending = guest.domain.events.poll(port)
        if pending:
            guest.domain.events.close(port)
            guest.domain.events.bind_virq(xen.VIRQ_TIMER, 0)
        return pending

    def test_fires_once_and_not_before(self, guest: SmallDomain) -> None:
        self.fired(guest)
        now = guest.domain.clock.now()
        assert self.set_singleshot(guest, now + 5 * MS, vcpu.VCPU_SSHOTTMR_future) == 0
        guest.host.ns += 4 * MS
        assert not self.fired(guest)
        guest.host.ns += 2 * MS
        assert self.fired(guest)
        guest.host.ns += 100 * MS
        assert not self.fired(guest)

    def test_past_time(self, guest: SmallDomain) -> None:
        self.fired(guest)
        guest.host.ns += MS
        past = guest.domain.clock.now() - 1
        assert self.set_singleshot(guest, past, vcpu.VCPU_SSHOTTMR_future) == -ETIME
        assert not self.fired(guest)
        for time in (past, 0, (1 << 64) - 1):  # the last one is negative to Xen
            assert self.set_singleshot(guest, time) == 0
            assert self.fired(guest)

    def test_stop(self, guest: SmallDomain) -> None:
        self.fired(guest)
        self.set_singleshot(guest, guest.domain.clock.now() + MS)
        assert guest.call(VCPU_OP, vcpu.VCPUOP_stop_singleshot_timer, 0) == 0
        guest.host.ns += 2 * MS
        assert not self.fired(guest)

    def test_singleshot_of_another_vcpu(self, guest2: SmallDomain) -> None:
        assert self.set_singleshot(guest2, 1, index=1) == -EINVAL
        assert guest2.call(VCPU_OP, vcpu.VCPUOP_stop_singleshot_timer, 1) == -EINVAL
        assert guest2.call(VCPU_OP, vcpu.VCPUOP_set_singleshot_timer, 1, NOT_MAPPED) == -EINVAL

    def test_periodic(self, guest: SmallDomain) -> None:
        self.fired(guest)
        assert self.set_periodic(guest, 10 * MS) == 0
        for _ in range(3):
            guest.host.ns += 9 * MS
            assert not self.fired(guest)
            guest.host.ns += MS
            assert self.fired(guest)
        guest.host.ns += 35 * MS
        assert self.fired(guest)
        guest.host.ns += 4 * MS
        assert not self.fired(guest)  # the beat is kept
        assert guest.call(VCPU_OP, vcpu.VCPUOP_stop_periodic_timer, 0) == 0
        guest.host.ns += 100 * MS
        assert not self.fired(guest)

    def test_periodic_timer_rests_while_the_vcpu_does_not_run(self, guest: SmallDomain) -> None:
        """As under Xen: an overdue tick comes when the vCPU is switched in, and it wakes none."""
        timers = guest.domain.timers
        guest.host.ns += SECOND
        self.fired(guest)
        self.set_periodic(guest, 10 * MS)
        assert self.fired(guest)  # the last one was long ago
        scheduler = guest.domain.scheduler
        assert scheduler._schedule() is guest.vcpu
        guest.vcpu.block()
        assert scheduler._schedule() is None
        assert not timers.deadline(guest.vcpu, PERIODIC)
        guest.host.ns += 15 * MS
        assert not self.fired(guest)
        guest.vcpu.wake()
        assert scheduler._schedule() is guest.vcpu
        assert self.fired(guest)
        assert timers.deadline(guest.vcpu, PERIODIC) == guest.domain.clock.now() + 10 * MS

    def test_timer_that_is_set_again_and_again_takes_no_memory(self, guest: SmallDomain) -> None:
        timers = guest.domain.timers
        for number in range(1000):
            guest.call(xen.HYPERVISOR_set_timer_op, SECOND + number)
        assert len(timers._heap) < 50
        assert timers.next == SECOND + 999
        guest.call(xen.HYPERVISOR_set_timer_op, 0)
        assert timers.next == 0

    @pytest.mark.parametrize("period", [0, MS - 1, 1 << 62, (1 << 64) - 1])
    def test_periods_out_of_range(self, guest: SmallDomain, period: int) -> None:
        assert self.set_periodic(guest, period) == -EINVAL

    @pytest.mark.parametrize("period", [MS, (1 << 62) - 1])
    def test_periods_at_the_limits(self, guest: SmallDomain, period: int) -> None:
        assert self.set_periodic(guest, period) == 0

    def test_set_timer_op(self, guest: SmallDomain) -> None:
        self.fired(guest)
        now = guest.domain.clock.now()
        call = xen.HYPERVISOR_set_timer_op
        assert guest.call(call, now + MS) == 0
        guest.host.ns += 2 * MS
        assert self.fired(guest)
        assert guest.call(call, 1) == 0  # over, so at once
        assert self.fired(guest)
        guest.call(call, guest.domain.clock.now() + MS)
        assert guest.call(call, 0) == 0
        guest.host.ns += 2 * MS
        assert not self.fired(guest)

    @pytest.mark.parametrize("delta", [1 << 50, -(1 << 63)])
    def test_deadline_far_away_is_looked_at_in_100_ms(self, guest: SmallDomain, delta: int) -> None:
        now = guest.domain.clock.now()
        deadline = now + delta & (1 << 64) - 1
        assert guest.call(xen.HYPERVISOR_set_timer_op, deadline) == 0
        assert guest.domain.timers.deadline(guest.vcpu, SINGLE_SHOT) == now + 100 * MS
        far = now + (1 << 50) - 1
        assert guest.call(xen.HYPERVISOR_set_timer_op, far) == 0
        assert guest.domain.timers.deadline(guest.vcpu, SINGLE_SHOT) == far


def test_vcpu_without_a_place_in_shared_info_disturbs_no_other() -> None:
    with small_domain(34) as guest:
        before = read_shared_info(guest)
        guest.domain.events.send(guest.domain.events.bind_ipi(33))
        pending = xen.SHARED_INFO.offsets["evtchn_pending"]
        assert read_shared_info(guest)[:pending] == before[:pending]


class TestTimeArea:
    def register(self, guest: SmallDomain, address: int, index: int = 0) -> int:
        layout = vcpu.VCPU_REGISTER_TIME_MEMORY_AREA
        command = vcpu.VCPUOP_register_vcpu_time_memory_area
        return vcpu_op(guest, command, index, layout, address)

    def record(self, guest: SmallDomain) -> bytes:
        start = guest.vcpu.info + xen.VCPU_INFO.offsets["time"]
        return bytes(guest.memory.bytes[start : start + xen.VCPU_TIME_INFO.size])

    def test_is_a_copy_of_the_record(self, guest: SmallDomain) -> None:
        address = guest.address(7) + 4088  # over the end of a page
        assert self.register(guest, address) == 0
        assert guest.read(address, 32) == self.record(guest) != bytes(32)
        before = guest.read(address, 32)
        guest.host.ns += SECOND
        guest.domain.attend()
        assert guest.read(address, 32) == self.record(guest) != before

    def test_version_is_odd_while_writing(
        self, guest: SmallDomain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.register(guest, guest.address(7))
        versions: list[int] = []
        copy = guest_access.copy_to_area

        def spy(target: Vcpu, at: int, data: bytes) -> None:
            copy(target, at, data)
            versions.append(int.from_bytes(guest.read(guest.address(7), 4), "little") & 1)

        monkeypatch.setattr(guest_access, "copy_to_area", spy)
        guest.vcpu.update_time_area()
        assert versions == [1, 1, 0]

    def test_is_written_late_for_user_mode(self, guest: SmallDomain) -> None:
        address = guest.address(7)
        self.register(guest, address)
        guest.domain.load_user_base(guest.vcpu, guest.mfn(USER_L4))
        guest.vcpu.cpu.enter_user(FLAT_USER_CS64, FLAT_USER_DS, True)
        before = guest.read(address, 32)
        guest.host.ns += SECOND
        guest.domain.attend()
        assert guest.read(address, 32) == before
        guest.domain.traps.bounce(guest.vcpu, guest.address(0), -1, False)
        assert guest.read(address, 32) == self.record(guest) != before

    def test_refused(self, guest: SmallDomain) -> None:
        for address in (XEN_ADDRESS, NON_CANONICAL):
            assert self.register(guest, address) == -EFAULT
        assert self.register(guest, NOT_MAPPED) == 0
        assert self.register(guest, 0) == 0
        command = vcpu.VCPUOP_register_vcpu_time_memory_area
        assert guest.call(VCPU_OP, command, 0, NOT_MAPPED) == -EFAULT

    @pytest.mark.parametrize(
        "command",
        [vcpu.VCPUOP_register_runstate_phys_area, vcpu.VCPUOP_register_vcpu_time_phys_area],
    )
    def test_areas_by_frame_are_later_than_this_xen(self, guest: SmallDomain, command: int) -> None:
        assert guest.call(VCPU_OP, command, 0, guest.put(bytes(8))) == -ENOSYS


class TestRunstate:
    def get(self, guest: SmallDomain, index: int = 0) -> tuple[int, ...]:
        place = guest.put(bytes(48))
        assert guest.call(VCPU_OP, vcpu.VCPUOP_get_runstate_info, index, place) == 0
        result: tuple[int, ...] = guest.read_struct(vcpu.VCPU_RUNSTATE_INFO, place)
        return result

    def test_times_sum_up_to_the_time_that_has_passed(self, guest: SmallDomain) -> None:
        target = guest.vcpu
        start = guest.domain.clock.now()
        target.set_runstate(vcpu.RUNSTATE_running, start)
        for state, duration in (
            (vcpu.RUNSTATE_blocked, 7),
            (vcpu.RUNSTATE_running, 11),
            (vcpu.RUNSTATE_runnable, 13),
            (vcpu.RUNSTATE_running, 17),
        ):
            guest.host.ns += duration
            target.set_runstate(state, guest.domain.clock.now())
        guest.host.ns += 19
        before = self.get(guest)
        assert before == self.get(guest)  # asking changes nothing
        state, since, *times = before
        assert state == vcpu.RUNSTATE_running
        assert since == guest.domain.clock.now() - 19
        assert sum(times) == guest.domain.clock.now()
        assert times[vcpu.RUNSTATE_runnable] == 17
        assert times[vcpu.RUNSTATE_blocked] == 11

    def register(self, guest: SmallDomain, address: int) -> int:
        layout = vcpu.VCPU_REGISTER_RUNSTATE_MEMORY_AREA
        return vcpu_op(guest, vcpu.VCPUOP_register_runstate_memory_area, 0, layout, address)

    def test_area_follows_each_change(self, guest: SmallDomain) -> None:
        address = guest.address(7)
        assert self.register(guest, address) == 0
        guest.vcpu.set_runstate(vcpu.RUNSTATE_blocked, 1000)
        guest.vcpu.set_runstate(vcpu.RUNSTATE_running, 3000)
        guest.vcpu.update_runstate_area()
        state, since, *times = guest.read_struct(vcpu.VCPU_RUNSTATE_INFO, address)
        assert (state, since, times[vcpu.RUNSTATE_blocked]) == (vcpu.RUNSTATE_running, 3000, 2000)

    def test_update_flag_is_set_while_writing_only(
        self, guest: SmallDomain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert guest.call(xen.HYPERVISOR_vm_assist, 0, xen.VMASST_TYPE_runstate_update_flag) == 0
        address = guest.address(7)
        self.register(guest, address)
        seen: list[tuple[int, int]] = []
        copy = guest_access.copy_to_area

        def spy(target: Vcpu, at: int, data: bytes) -> None:
            copy(target, at, data)
            state, since, *_ = guest.read_struct(vcpu.VCPU_RUNSTATE_INFO, address)
            seen.append((state, since))

        monkeypatch.setattr(guest_access, "copy_to_area", spy)
        guest.vcpu.set_runstate(vcpu.RUNSTATE_blocked, 1000)
        guest.vcpu.update_runstate_area()
        flag = vcpu.XEN_RUNSTATE_UPDATE
        runnable, blocked = vcpu.RUNSTATE_runnable, vcpu.RUNSTATE_blocked
        assert seen == [(runnable, flag), (blocked, 1000 | flag), (blocked, 1000)]

    def test_area_is_written_late_for_user_mode(self, guest: SmallDomain) -> None:
        """The tables of user mode do not map it."""
        address = guest.address(7)
        self.register(guest, address)
        guest.domain.load_user_base(guest.vcpu, guest.mfn(USER_L4))
        before = guest.read(address, 48)
        guest.vcpu.cpu.enter_user(FLAT_USER_CS64, FLAT_USER_DS, True)
        guest.vcpu.set_runstate(vcpu.RUNSTATE_blocked, 1000)
        guest.vcpu.update_runstate_area()
        assert guest.read(address, 48) == before
        guest.domain.traps.bounce(guest.vcpu, guest.address(0), -1, False)
        assert guest.read_struct(vcpu.VCPU_RUNSTATE_INFO, address)[1] == 1000

    def test_states_of_a_vcpu_that_waits_wakes_and_is_paused(self, guest2: SmallDomain) -> None:
        first, second = guest2.domain.vcpus
        second.initialised = second.up = True
        assert second.runstate == vcpu.RUNSTATE_runnable
        guest2.domain.pause()
        guest2.domain.pause()
        assert (first.runstate, second.runstate) == (vcpu.RUNSTATE_offline,) * 2
        guest2.domain.unpause()
        assert not first.runnable
        guest2.domain.unpause()
        assert (first.runstate, second.runstate) == (vcpu.RUNSTATE_runnable,) * 2
        second.block()
        assert second.runstate == vcpu.RUNSTATE_blocked
        guest2.domain.pause()
        assert second.runstate == vcpu.RUNSTATE_blocked
        second.wake()
        assert second.runstate == vcpu.RUNSTATE_offline
        guest2.host.ns += 5 * MS
        guest2.domain.unpause()
        assert second.runstate == vcpu.RUNSTATE_runnable
        assert second.runstate_times[vcpu.RUNSTATE_offline] == 5 * MS
        second.up = False
        assert second.runstate == vcpu.RUNSTATE_offline
        with pytest.raises(XenError):
            guest2.domain.unpause()

    @pytest.mark.parametrize("address", [NOT_MAPPED, LAST_SCRATCH - 8])
    def test_area_that_is_not_mapped_is_left_alone(self, guest: SmallDomain, address: int) -> None:
        """It may be mapped later."""
        assert self.register(guest, address) == 0
        guest.vcpu.set_runstate(vcpu.RUNSTATE_blocked, 1)
        assert guest.vcpu.runstate_area == address

    @pytest.mark.parametrize("address", [XEN_ADDRESS, NON_CANONICAL])
    def test_area_that_cannot_be_the_guests(self, guest: SmallDomain, address: int) -> None:
        assert self.register(guest, address) == -EFAULT
        assert guest.vcpu.runstate_area == 0


class TestSched:
    def poll(self, guest: SmallDomain, ports: list[int] | int, count: int, timeout: int = 0) -> int:
        if isinstance(ports, list):
            ports = guest.put(struct.pack(f"<{len(ports)}I", *ports), 0x100)
        pointer = guest.put_struct(sched.SCHED_POLL, ports, count, timeout)
        return guest.call(SCHED_OP, sched.SCHEDOP_poll, pointer)

    def shutdown(self, guest: SmallDomain, reason: int) -> int:
        pointer = guest.put_struct(sched.SCHED_SHUTDOWN, reason)
        return guest.call(SCHED_OP, sched.SCHEDOP_shutdown, pointer)

    def test_block_unmasks_and_waits(self, guest: SmallDomain) -> None:
        guest.set_upcall_mask(1)
        assert guest.call(SCHED_OP, sched.SCHEDOP_block | HIGH) == 0
        assert guest.upcall_mask() == 0
        assert not guest.vcpu.runnable
        port = guest.domain.events.bind_ipi(0)
        guest.domain.events.send(port)
        assert guest.vcpu.runnable

    def test_block_with_an_event_pending_goes_on(self, guest: SmallDomain) -> None:
        guest.set_upcall_mask(1)
        guest.domain.events.send(guest.domain.events.bind_ipi(0))
        assert guest.call(SCHED_OP, sched.SCHEDOP_block) == 0
        assert guest.vcpu.runnable
        assert guest.upcall_mask() == 0

    def test_poll_waits_for_a_masked_port(self, guest: SmallDomain) -> None:
        events = guest.domain.events
        guest.set_upcall_mask(1)
        port, other = events.bind_ipi(0), events.bind_ipi(0)
        shared_info = guest.memory.shared_info_mfn * PAGE_SIZE
        guest.memory.words[shared_info + xen.SHARED_INFO.offsets["evtchn_mask"] >> 3] = 0xFF
        assert self.poll(guest, [port], 1) == 0
        assert not guest.vcpu.runnable
        events.send(other)
        assert not guest.vcpu.runnable
        events.send(port)
        assert guest.vcpu.runnable
        assert self.poll(guest, [other, port], 2) == 0
        assert guest.vcpu.runnable

    def test_any_event_that_is_not_masked_ends_a_poll(self, guest: SmallDomain) -> None:
        events = guest.domain.events
        guest.set_upcall_mask(1)
        port, other = events.bind_ipi(0), events.bind_ipi(0)
        self.poll(guest, [port], 1)
        events.send(other)
        assert guest.vcpu.runnable

    def test_poll_with_an_event_to_deliver_returns(self, guest: SmallDomain) -> None:
        events = guest.domain.events
        port, other = events.bind_ipi(0), events.bind_ipi(0)
        guest.set_upcall_mask(0)
        events.send(other)
        assert self.poll(guest, [port], 1) == 0
        assert guest.vcpu.runnable

    def test_poll_until_a_time(self, guest: SmallDomain) -> None:
        guest.host.ns += MS  # time 0 would be no time
        port = guest.domain.events.bind_ipi(0)
        now = guest.domain.clock.now()
        assert self.poll(guest, [port], 1, now + MS) == 0
        assert not guest.vcpu.runnable
        guest.host.ns += 2 * MS
        guest.domain.attend()
        assert guest.vcpu.runnable
        for over in (now, 1, 1 << 63, (1 << 64) - 1):
            assert self.poll(guest, [port], 1, over) == 0
            guest.domain.attend()
            assert guest.vcpu.runnable

    def test_poll_without_ports_reads_none_but_checks_the_pointer(self, guest: SmallDomain) -> None:
        assert self.poll(guest, NON_CANONICAL, 0) == -EFAULT
        assert self.poll(guest, NOT_MAPPED, 0) == 0
        assert not guest.vcpu.runnable
        guest.domain.events.send(guest.domain.events.bind_ipi(0))
        assert guest.vcpu.runnable

    def test_poll_refused(self, guest: SmallDomain) -> None:
        port = guest.domain.events.bind_ipi(0)
        for ports, count, error in (
            ([port] * 129, 129, EINVAL),
            ([port, 99], 2, EINVAL),
            ([4096], 1, EINVAL),
            ([0], 1, EINVAL),
            (NOT_MAPPED, 1, EFAULT),
            (LAST_SCRATCH - 4, 2, EINVAL),  # reads 0 first, which is no port
        ):
            assert self.poll(guest, ports, count) == -error
            assert guest.vcpu.runnable

    def test_ports_behind_a_pending_one_do_not_matter(self, guest: SmallDomain) -> None:
        port = guest.domain.events.bind_ipi(0)
        guest.set_upcall_mask(1)
        guest.domain.events.send(port)
        assert self.poll(guest, [port, 4096], 2) == 0

    def test_poll_of_several_ports_ends_with_any(self, guest2: SmallDomain) -> None:
        """As Xen, which keeps one port."""
        events = guest2.domain.events
        guest2.set_upcall_mask(1)
        ports = [events.bind_ipi(0), events.bind_ipi(0)]
        other = events.bind_ipi(1)
        assert self.poll(guest2, ports, 1) == 0
        events.send(other)
        assert not guest2.vcpu.runnable
        events.send(ports[0])
        assert guest2.vcpu.runnable
        self.take(guest2, ports[0])
        self.take(guest2, other)
        assert self.poll(guest2, ports, 2) == 0
        assert not guest2.vcpu.runnable
        events.send(other)
        assert guest2.vcpu.runnable

    def take(self, guest: SmallDomain, port: int) -> None:
        start = guest.memory.shared_info_mfn * PAGE_SIZE
        offset = start + xen.SHARED_INFO.offsets["evtchn_pending"]
        guest.memory.words[offset >> 3] &= ~(1 << port)

    @pytest.mark.parametrize(
        ("reason", "name"),
        [
            (0, "poweroff"),
            (1, "reboot"),
            (2, "suspend"),
            (3, "crash"),
            (4, "watchdog"),
            (5, "soft_reset"),
            (0x101, "reboot"),
            (200, "crash"),
        ],
    )
    def test_shutdown(self, guest: SmallDomain, reason: int, name: str) -> None:
        """Eight bits count, and any of them are taken."""
        assert self.shutdown(guest, reason) == 0
        assert guest.domain.stopping == name

    def test_shutdown_code_comes_before_the_reason(self, guest: SmallDomain) -> None:
        for code in (sched.SHUTDOWN_watchdog, sched.SHUTDOWN_reboot):
            pointer = guest.put_struct(sched.SCHED_SHUTDOWN, code)
            assert guest.call(SCHED_OP, sched.SCHEDOP_shutdown_code, pointer) == 0
        assert not guest.domain.stopping
        self.shutdown(guest, sched.SHUTDOWN_poweroff)
        assert guest.domain.stopping == "watchdog"

    def test_shutdown_code_of_poweroff_counts(self, guest: SmallDomain) -> None:
        pointer = guest.put_struct(sched.SCHED_SHUTDOWN, sched.SHUTDOWN_poweroff)
        assert guest.call(SCHED_OP, sched.SCHEDOP_shutdown_code, pointer) == 0
        self.shutdown(guest, sched.SHUTDOWN_reboot)
        assert guest.domain.stopping == "poweroff"

    def watchdog(self, guest: SmallDomain, number: int, seconds: int) -> int:
        pointer = guest.put_struct(sched.SCHED_WATCHDOG, number, seconds)
        return guest.call(SCHED_OP, sched.SCHEDOP_watchdog, pointer)

    def test_watchdogs(self, guest: SmallDomain) -> None:
        assert self.watchdog(guest, 1, 10) == -EINVAL
        assert self.watchdog(guest, 0, 10) == 1
        assert self.watchdog(guest, 2, 10) == -EINVAL
        assert self.watchdog(guest, 0, 20) == 2
        assert self.watchdog(guest, 0, 20) == -ENOSPC
        assert self.watchdog(guest, 3, 20) == -EINVAL
        assert self.watchdog(guest, 1, 0) == 0
        assert self.watchdog(guest, 1, 10) == -EINVAL
        assert self.watchdog(guest, 0, 30) == 1
        guest.host.ns += 19 * SECOND
        guest.domain.attend()
        assert self.watchdog(guest, 2, 20) == 0
        guest.host.ns += 10 * SECOND
        guest.domain.attend()
        assert not guest.domain.stopping
        guest.host.ns += 2 * SECOND
        guest.domain.attend()
        assert guest.domain.stopping == "watchdog"

    def test_watchdog_that_is_taken_without_a_time_expires_at_once(
        self, guest: SmallDomain
    ) -> None:
        guest.host.ns += MS
        assert self.watchdog(guest, 0, 0) == 1
        guest.domain.attend()
        assert guest.domain.stopping == "watchdog"

    def test_remote_shutdown_is_for_domain_0(self, guest: SmallDomain) -> None:
        own = guest.domain.domid
        for domid, error in ((0, EPERM), (own, EPERM), (9, ESRCH), (xen.DOMID_SELF, ESRCH)):
            pointer = guest.put_struct(sched.SCHED_REMOTE_SHUTDOWN, domid, 0)
            result = guest.call(SCHED_OP, sched.SCHEDOP_remote_shutdown, pointer)
            assert result == -error
        assert not guest.domain.stopping

    def test_refused(self, guest: SmallDomain) -> None:
        assert guest.call(SCHED_OP, sched.SCHEDOP_pin_override, 0) == -EPERM
        assert guest.call(SCHED_OP, 99, 0) == -ENOSYS

    def test_compat_form(self, guest: SmallDomain) -> None:
        call = xen.HYPERVISOR_sched_op_compat
        assert guest.call(call, sched.SCHEDOP_yield) == 0
        assert guest.call(call, sched.SCHEDOP_poll) == -ENOSYS
        assert guest.call(call, sched.SCHEDOP_block) == 0
        assert guest.vcpu.blocked
        assert guest.call(call, sched.SCHEDOP_shutdown, sched.SHUTDOWN_reboot) == 0
        assert guest.domain.stopping == "reboot"
