# SPDX-License-Identifier: GPL-2.0-or-later
"""The report on a domain that crashed: what a kernel developer wants to see."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING, Final

from pyxen.abi import xen
from pyxen.abi.callback import CALLBACKOP_NAMES
from pyxen.abi.errno import ERRNO_NAMES
from pyxen.abi.event_channel import EVTCHNOP_NAMES
from pyxen.abi.grant_table import GNTTABOP_NAMES
from pyxen.abi.memory import XENMEM_NAMES
from pyxen.abi.nmi import XENNMI_NAMES
from pyxen.abi.physdev import PHYSDEVOP_NAMES
from pyxen.abi.sched import SCHEDOP_NAMES
from pyxen.abi.vcpu import VCPUOP_NAMES
from pyxen.abi.version import XENVER_NAMES
from pyxen.hypervisor.addresses import UINT32
from pyxen.hypervisor.guest_access import NOT_MAPPED, read_code, translate
from pyxen.hypervisor.page_flags import ADDRESS_MASK, PAGE_SIZE, PRESENT
from pyxen.hypervisor.printable import printable

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu

Lookup = Callable[[int], tuple[str, int] | None]

_STACK_WORDS: Final = 512
_SHOWN_FRAMES: Final = 24
_SHOWN_WORDS: Final = 16
_CODE: Final = 16
_COMMANDS: Final = {
    xen.HYPERVISOR_callback_op: CALLBACKOP_NAMES,
    xen.HYPERVISOR_console_io: xen.CONSOLEIO_NAMES,
    xen.HYPERVISOR_event_channel_op: EVTCHNOP_NAMES,
    xen.HYPERVISOR_grant_table_op: GNTTABOP_NAMES,
    xen.HYPERVISOR_memory_op: XENMEM_NAMES,
    xen.HYPERVISOR_nmi_op: XENNMI_NAMES,
    xen.HYPERVISOR_physdev_op: PHYSDEVOP_NAMES,
    xen.HYPERVISOR_sched_op: SCHEDOP_NAMES,
    xen.HYPERVISOR_sched_op_compat: SCHEDOP_NAMES,
    xen.HYPERVISOR_vcpu_op: VCPUOP_NAMES,
    xen.HYPERVISOR_xen_version: XENVER_NAMES,
}
"""Hypercalls whose first argument is a command, and the names of these."""
_ROWS: Final = (
    ("rax", "rbx", "rcx", "rdx"),
    ("rsi", "rdi", "rbp", "rsp"),
    ("r8", "r9", "r10", "r11"),
    ("r12", "r13", "r14", "r15"),
    ("cr0", "cr2", "cr3", "cr4"),
    ("fs_base", "gs_base", "rflags", "cs"),
)


def describe_crash(domain: Domain, reason: str, symbol: Lookup, console: str = "") -> str:
    """Reason, registers, code, stack and the last hypercalls of a stopped domain.

    ``symbol(address)`` names an address of the guest kernel, if it can. ``console`` is the last it
    has printed: the console itself may have gone elsewhere. The text has no line feed at its end.
    Never fails, whatever the guest has left behind.
    """
    lines = [f"domain {domain.domid} crashed: {reason}"]
    for vcpu in domain.vcpus:
        if vcpu.initialised:
            lines += _describe_vcpu(vcpu, symbol)
    if console:
        lines.append("last console output:")
        lines += [f"  {printable(line)}" for line in console.split("\n")]
    lines.append("last hypercalls (the newest last):")
    for call, same in groupby(_describe_hypercall(*c) for c in domain.counters.last_hypercalls()):
        count = sum(1 for _ in same)
        lines.append(call if count == 1 else f"{call} × {count}")  # noqa: RUF001
    return "\n".join(lines)


def _describe_vcpu(vcpu: Vcpu, symbol: Lookup) -> list[str]:
    registers = vcpu.cpu.registers
    mode = "user" if vcpu.cpu.user_mode else "kernel"
    state = "up" if vcpu.up else "down"
    lines = [f"vcpu {vcpu.index} ({state}, {mode} mode) at {_name(registers.rip, symbol)}"]
    for row in _ROWS:
        lines.append("  " + "  ".join(f"{n:>7} {getattr(registers, n):016x}" for n in row))
    code = read_code(vcpu, registers.rip, _CODE)
    lines.append(f"  code at rip: {code.hex(' ') or 'not mapped'}")
    stack = registers.rsp if not vcpu.cpu.user_mode else vcpu.kernel_sp
    words = _read_stack(vcpu, stack)
    if not words:
        lines.append(f"  stack at {stack:016x}: not mapped")
        return lines
    lines.append(f"  stack at {stack:016x}:")
    for first in range(0, min(len(words), _SHOWN_WORDS), 4):
        lines.append("    " + " ".join(f"{word:016x}" for word in words[first : first + 4]))
    frames = [word for word in words if symbol(word) is not None][:_SHOWN_FRAMES]
    if frames:
        lines.append("  addresses of code or data on the stack:")
        lines += [f"    {_name(frame, symbol)}" for frame in frames]
    return lines


def _name(address: int, symbol: Lookup) -> str:
    found = symbol(address)
    if found is None:
        return f"{address:016x}"
    name, offset = found
    return f"{address:016x} {name}+{offset:#x}"


def _read_stack(vcpu: Vcpu, address: int) -> list[int]:
    """The words from an address to the end of the mapping, at most _STACK_WORDS."""
    memory = vcpu.domain.memory
    words: list[int] = []
    address &= ~7
    while len(words) < _STACK_WORDS and address <= ADDRESS_MASK:
        machine = translate(memory.words, vcpu.cpu.kernel_page_table, address, PRESENT)
        if machine == NOT_MAPPED or machine >= memory.frames * PAGE_SIZE:
            break
        count = min(_STACK_WORDS - len(words), (PAGE_SIZE - address % PAGE_SIZE) // 8)
        words += memory.words[machine >> 3 : (machine >> 3) + count].tolist()
        address += count * 8
    return words


def _describe_hypercall(vcpu: int, number: int, first: int, second: int, result: int) -> str:
    name = xen.HYPERCALL_NAMES.get(number, f"hypercall_{number}")
    command = _COMMANDS.get(number, {}).get(first & UINT32, f"{first:#x}")
    shown = f"-{ERRNO_NAMES.get(-result, str(-result))}" if result < 0 else f"{result:#x}"
    return f"  vcpu {vcpu}: {name}({command}, {second:#x}, …) = {shown}"
