# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine without Xen: an engine, identity page tables, and code assembled by GNU as."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from pyxen.engine.emulator import library
from pyxen.engine.emulator.engine import EmulatorEngine
from pyxen.engine.protocol import Cpu

CODE = 0x10000000
"""Where code is put: the first page of RAM (machine and linear address are the same)."""
STACK = CODE + 0x80000
DATA = CODE + 0x100000
USER_CODE = CODE + 0x200000
"""This 2 MiB and all above are user pages."""
_PRESENT, _WRITE, _USER, _LARGE = 1, 2, 4, 0x80


def assemble(source: str, origin: int = CODE) -> bytes:
    """Machine code of AT&T-syntax source, linked at ``origin``."""
    if not shutil.which("as") or not shutil.which("ld"):
        pytest.skip("GNU as and ld are not installed (package binutils)")
    with tempfile.TemporaryDirectory() as folder:
        object_file, output = Path(folder, "code.o"), Path(folder, "code.bin")
        subprocess.run(["as", "--64", "-o", object_file, "-"], input=source.encode(), check=True)
        subprocess.run(
            ["ld", f"-Ttext={origin:#x}", "--oformat=binary", "-e0", "-o", output, object_file],
            check=True,
        )
        return output.read_bytes()


class RecordingHandler:
    """Keeps traps as tuples; a hypercall with rax = 0 stops the engine."""

    def __init__(self, engine: EmulatorEngine) -> None:
        self.engine = engine
        self.traps: list[tuple[object, ...]] = []

    def hypercall(self, cpu: Cpu) -> None:
        self.traps.append(("hypercall", cpu.registers.rax))
        if cpu.registers.rax == 0:
            self.engine.stop()

    def system_call(self, cpu: Cpu) -> None:
        self.traps.append(("system_call", cpu.registers.rax))
        self.engine.stop()

    def sysenter(self, cpu: Cpu) -> None:
        self.traps.append(("sysenter", cpu.registers.rip))
        self.engine.stop()

    def exception(self, cpu: Cpu, vector: int, error_code: int, software: bool) -> None:
        self.traps.append(("exception", vector, error_code, software))
        self.engine.stop()

    def cpuid(self, cpu: Cpu) -> None:
        self.traps.append(("cpuid", cpu.registers.rax))
        cpu.registers.rax = 0x11
        cpu.registers.rbx = cpu.registers.rcx = cpu.registers.rdx = 0x22


def forget_kicks() -> None:
    """A guest of another test may have been kicked when it had ended already. There is one kick for
    the process, and it would end the first run here at once."""
    library.kick_byte()[0] = 0


def make_machine(vcpus: int = 1) -> tuple[EmulatorEngine, RecordingHandler]:
    """An engine with 8 MiB of RAM, all mapped one to one for kernel and user."""
    engine = EmulatorEngine(2048, vcpus)
    forget_kicks()
    words = engine.memory.words
    l4, l3, l2 = 0x1000, 0x2000, 0x3000
    words[l4 >> 3] = l3 | _PRESENT | _WRITE | _USER
    words[l3 >> 3] = l2 | _PRESENT | _WRITE | _USER
    for number in range(CODE >> 21, (CODE >> 21) + 4):
        user = _USER if number << 21 >= USER_CODE else 0
        words[(l2 >> 3) + number] = number << 21 | _PRESENT | _WRITE | _LARGE | user
    handler = RecordingHandler(engine)
    engine.set_handler(handler)
    for cpu in engine.cpus:
        cpu.load_kernel_page_table(l4)
        cpu.load_user_page_table(l4)
        cpu.enter_kernel(0xE033, 0xE02B)
        cpu.registers.rip = CODE
        cpu.registers.rsp = STACK
    return engine, handler


def load(engine: EmulatorEngine, source: str, origin: int = CODE) -> None:
    """Assemble and put the code at ``origin``."""
    code = assemble(source, origin)
    engine.memory.bytes[origin : origin + len(code)] = code
    engine.invalidate_code(origin, len(code))
