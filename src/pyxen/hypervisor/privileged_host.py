# SPDX-License-Identifier: GPL-2.0-or-later
"""What the emulated privileged instructions act on: a vCPU as ``emulate`` wants to see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyxen.abi.errno import EPERM
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access, msr
from pyxen.hypervisor.emulate.privileged import CR0_TS, iopl_ok
from pyxen.hypervisor.page_flags import FRAME, PAGE_SHIFT
from pyxen.hypervisor.page_types import WRITABLE
from pyxen.hypervisor.vcpu import CR2, MASK

if TYPE_CHECKING:
    from pyxen.engine.protocol import Registers
    from pyxen.hypervisor.vcpu import Vcpu

_PF_WRITE = 2


class GuestFault(Exception):
    """A string I/O instruction touched memory that is not there: the guest gets #PF."""

    def __init__(self, address: int, error_code: int) -> None:
        super().__init__(address, error_code)
        self.address = address
        self.error_code = error_code


class VcpuPrivileges:
    """See ``emulate.privileged.PrivilegedHost`` and ``msr.MsrHost``."""

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu
        self.vcpu_id = vcpu.index

    @property
    def registers(self) -> Registers:
        return self._vcpu.cpu.registers

    @property
    def kernel_mode(self) -> bool:
        return not self._vcpu.cpu.user_mode

    @property
    def cpu_vendor(self) -> str:
        return self._vcpu.domain.cpuid.vendor

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
        return self.iopl_ok()

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
            vcpu.cr4 = value
        else:
            raise XenError(EPERM)

    def read_debug_register(self, number: int) -> int:
        return self._vcpu.debug_registers[number]

    def write_debug_register(self, number: int, value: int) -> None:
        self._vcpu.debug_registers[number] = value

    def read_msr(self, index: int) -> int:
        return msr.read_msr(self, index)

    def write_msr(self, index: int, value: int) -> None:
        msr.write_msr(self, index, value)

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        return self._vcpu.domain.cpuid.leaf(leaf, subleaf)

    def port_in(self, port: int, size: int) -> int:
        return (1 << 8 * size) - 1

    def port_out(self, port: int, size: int, value: int) -> None:
        """There are no ports."""

    def read_linear(self, address: int, size: int) -> bytes:
        try:
            return guest_access.copy_from(self._vcpu, address, size)
        except XenError:
            raise GuestFault(address, 0) from None

    def write_linear(self, address: int, data: bytes) -> None:
        try:
            guest_access.copy_to(self._vcpu, address, data)
        except XenError:
            raise GuestFault(address, _PF_WRITE) from None

    def halt(self) -> None:
        vcpu = self._vcpu
        if vcpu.domain.memory.bytes[vcpu.info + MASK] == 0:
            vcpu.block()
        else:
            # Halted for good, as a CPU with interrupts disabled is.
            vcpu.up = False
