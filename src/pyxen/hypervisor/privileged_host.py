# SPDX-License-Identifier: GPL-2.0-or-later
"""What the emulated privileged instructions act on: a vCPU as ``emulate`` wants to see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyxen.abi.errno import EFAULT, ENODEV, EPERM
from pyxen.errors import XenError
from pyxen.hypervisor import debug, guest_access, msr
from pyxen.hypervisor.addresses import is_guest_address
from pyxen.hypervisor.emulate.privileged import CR0_TS, iopl_ok
from pyxen.hypervisor.page_flags import FRAME, PAGE_SHIFT, PAGE_SIZE, PRESENT, RW, USER
from pyxen.hypervisor.page_types import WRITABLE
from pyxen.hypervisor.vcpu import CR2, MASK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyxen.engine.protocol import Registers
    from pyxen.hypervisor.vcpu import Vcpu

_ADDRESS_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
_PF_WRITE: Final = 2
_INVALID_OPCODE: Final = 6
_GENERAL_PROTECTION: Final = 13
_PAGE_FAULT: Final = 14


class GuestFault(Exception):
    """The guest gets another exception than #GP for the instruction: #PF at ``address`` when a
    string instruction touches memory that is not there, #UD for a register that does not exist."""

    def __init__(self, vector: int, error_code: int = 0, address: int = 0) -> None:
        super().__init__(vector, error_code, address)
        self.vector = vector
        self.error_code = error_code
        self.address = address


class VcpuPrivileges:
    """See ``emulate.privileged.PrivilegedHost`` and ``msr.MsrHost``."""

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu
        self.vcpu_id = vcpu.index
        self._port_status = 0
        self._frames = vcpu.domain.memory.frames

    @property
    def registers(self) -> Registers:
        return self._vcpu.cpu.registers

    @property
    def kernel_mode(self) -> bool:
        return not self._vcpu.cpu.user_mode

    @property
    def code_bits(self) -> int:
        return 64 if self._vcpu.cpu.in_long_mode() else 32

    @property
    def cpu_vendor(self) -> str:
        return self._vcpu.domain.cpuid.vendor

    @property
    def cpu_family(self) -> int:
        return self._vcpu.domain.cpuid.family

    @property
    def has_rdtscp(self) -> bool:
        return self._vcpu.domain.cpuid.has_rdtscp

    @property
    def has_exception_handler(self) -> bool:
        return bool(self._vcpu.trap_address[_GENERAL_PROTECTION])

    @property
    def msrs(self) -> msr.VcpuMsrs:
        return self._vcpu.msrs

    @property
    def cpuid_faults(self) -> bool:
        vcpu = self._vcpu
        return vcpu.cpu.user_mode and bool(vcpu.msrs.misc_features_enables & msr.CPUID_FAULTING)

    def set_tsc_aux(self, value: int) -> None:
        self._vcpu.cpu.set_tsc_aux(value)

    def set_cpuid_faulting(self, enabled: bool) -> None:
        self._vcpu.cpu.set_cpuid_faulting(enabled)

    @property
    def user_gs_base(self) -> int:
        return self._vcpu.cpu.inactive_gs_base

    @user_gs_base.setter
    def user_gs_base(self, value: int) -> None:
        self._vcpu.cpu.inactive_gs_base = value

    def read_tsc(self) -> int:
        return self._vcpu.domain.engine.read_tsc()

    def write_hypercall_page(self, gfn: int) -> None:
        tables = self._vcpu.domain.pagetables
        tables.get_page_and_type(gfn, WRITABLE)
        self._vcpu.domain.fill_hypercall_page(gfn)
        tables.put_page_and_type(gfn)

    def iopl_ok(self) -> bool:
        vcpu = self._vcpu
        return iopl_ok(
            kernel_mode=not vcpu.cpu.user_mode,
            architectural_iopl=vcpu.domain.architectural_iopl,
            iopl=vcpu.iopl,
        )

    def io_permitted(self, port: int, size: int) -> bool:
        """The bitmap is in the kernel's memory: a clear bit permits a port. What cannot be read
        of it permits nothing, and a bit beyond the end of the last port's byte is not looked at."""
        if self.iopl_ok():
            return True
        vcpu = self._vcpu
        if port + size > vcpu.io_bitmap_ports:
            return False
        bits = 0
        for number in range(2):
            byte = 0xFF
            try:
                byte = guest_access.copy_from(vcpu, vcpu.io_bitmap + (port >> 3) + number, 1)[0]
            except XenError as error:
                if error.errno != EFAULT:
                    raise
            bits |= byte << 8 * number
        return not bits >> (port & 7) & (1 << size) - 1

    def read_cr(self, number: int) -> int:
        vcpu = self._vcpu
        if number == 0:
            return vcpu.cpu.registers.cr0
        if number == 2:
            return vcpu.domain.memory.words[(vcpu.info + CR2) >> 3]
        if number == 3:
            return vcpu.kernel_table_mfn << PAGE_SHIFT
        if number == 4:
            return vcpu.cr4
        raise XenError(EPERM)

    def write_cr(self, number: int, value: int) -> None:
        vcpu = self._vcpu
        if number == 0:
            vcpu.cpu.set_task_switched(bool(value & CR0_TS))
        elif number == 2:
            vcpu.domain.memory.words[(vcpu.info + CR2) >> 3] = value
        elif number == 3:
            vcpu.domain.load_kernel_base(vcpu, (value & FRAME) >> PAGE_SHIFT)
        elif number == 4:
            vcpu.load_cr4(value)
        else:
            raise XenError(EPERM)

    def read_debug_register(self, number: int) -> int:
        try:
            return debug.read_register(self._vcpu, number)
        except XenError:
            raise GuestFault(_INVALID_OPCODE) from None

    def write_debug_register(self, number: int, value: int) -> None:
        try:
            debug.write_register(self._vcpu, number, value)
        except XenError as error:
            if error.errno == ENODEV:
                raise GuestFault(_INVALID_OPCODE) from None
            raise

    def read_msr(self, index: int) -> int:
        return msr.read_msr(self, index)

    def write_msr(self, index: int, value: int) -> None:
        msr.write_msr(self, index, value)

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        return self._vcpu.domain.cpuid.leaf(leaf, subleaf)

    def port_in(self, port: int, size: int) -> int:
        """There are no ports: a read gives all ones, as on an empty bus."""
        self._port_status |= debug.port_status(self._vcpu, port, size)
        return (1 << 8 * size) - 1

    def port_out(self, port: int, size: int, value: int) -> None:
        self._port_status |= debug.port_status(self._vcpu, port, size)

    def take_port_status(self) -> int:
        """The bits of DR6 for I/O breakpoints that the last instruction has hit."""
        status = self._port_status
        self._port_status = 0
        return status

    def read_linear(self, address: int, size: int) -> bytes:
        memory = self._vcpu.domain.memory.bytes
        return b"".join(bytes(memory[s:e]) for s, e in self._pieces(address, size, PRESENT))

    def write_linear(self, address: int, data: bytes) -> None:
        domain = self._vcpu.domain
        done = 0
        for start, end in self._pieces(address, len(data), PRESENT | RW):
            domain.memory.bytes[start:end] = data[done : done + end - start]
            done += end - start
            if domain.memory.code_frames[start >> PAGE_SHIFT]:
                domain.forget_code(start >> PAGE_SHIFT)

    def _pieces(self, address: int, size: int, needed: int) -> Iterator[tuple[int, int]]:
        """Where these bytes lie in machine memory, as the mode of the vCPU maps them, each page a
        piece. Raises GuestFault."""
        vcpu = self._vcpu
        cpu = vcpu.cpu
        if cpu.user_mode:
            needed |= USER
        table = cpu.user_page_table if cpu.user_mode else cpu.kernel_page_table
        while size:
            if not is_guest_address(address):
                raise GuestFault(_GENERAL_PROTECTION)
            machine = guest_access.translate(vcpu.words, table, address, needed)
            if machine == guest_access.NOT_MAPPED or machine >> PAGE_SHIFT >= self._frames:
                raise GuestFault(_PAGE_FAULT, _PF_WRITE if needed & RW else 0, address)
            piece = min(size, PAGE_SIZE - (address & PAGE_SIZE - 1))
            yield machine, machine + piece
            size -= piece
            address = address + piece & _ADDRESS_MASK

    def halt(self) -> None:
        vcpu = self._vcpu
        if vcpu.domain.memory.bytes[vcpu.info + MASK] == 0:
            vcpu.block()
        else:
            # Halted for good, as a CPU with interrupts disabled is.
            vcpu.up = False
