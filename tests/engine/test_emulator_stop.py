# SPDX-License-Identifier: GPL-2.0-or-later
"""Stops at random moments never tear an instruction.

The guest keeps pairs of redundant results (a register and memory, two counters, a checksum of a
copy) and executes ``ud2`` as soon as a pair disagrees. Another thread kicks the engine thousands of
times a second. An instruction that is executed twice, or half, shows at the next comparison.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from bare_machine import DATA, load, make_machine

STOPS = 5000

GUEST = f"""
        mov ${DATA}, %rbp          # counters
        mov ${DATA + 0x4000}, %r8  # source of the copies
        mov ${DATA + 0x6000}, %r9  # destination
        xor %rbx, %rbx             # rounds
        xor %r12, %r12             # expected sum of the exchanged values
loop:
        inc %rbx
        # memory arithmetic beside the same in a register
        addq $3, (%rbp)
        add $3, %r13
        cmp (%rbp), %r13
        jne torn
        # lock operations
        lock incq 8(%rbp)
        cmp 8(%rbp), %rbx
        jne torn
        mov $5, %rax
        lock xadd %rax, 16(%rbp)
        lea 5(%rax), %rax
        cmp 16(%rbp), %rax
        jne torn
        mov %rbx, %rcx
        dec %rcx
        mov %rcx, %rax
        mov %rbx, %rdx
        lock cmpxchg %rdx, 24(%rbp)
        jne torn
        # an exchange done twice would bring the new value back as the old one
        mov %rbx, %rax
        xchg %rax, 32(%rbp)
        cmp %rcx, %rax
        jne torn
        # read-modify-write of single bits
        mov %ebx, %eax
        and $63, %eax
        lock btsq %rax, 40(%rbp)
        jc torn
        lock btrq %rax, 40(%rbp)
        jnc torn
        # push and pop
        mov %rsp, %r14
        push %rbx
        pop %rax
        cmp %rsp, %r14
        jne torn
        cmp %rax, %rbx
        jne torn
        # string instructions: fill, copy, compare, count
        mov %r8, %rdi
        mov %rbx, %rax
        mov $64, %ecx
        rep stosq
        mov %r8, %rsi
        mov %r9, %rdi
        mov $511, %ecx
        rep movsb
        test %ecx, %ecx
        jne torn
        lea 511(%r8), %rax
        cmp %rax, %rsi
        jne torn
        movsb
        mov %r8, %rsi
        mov %r9, %rdi
        mov $64, %ecx
        repe cmpsq
        jne torn
        mov %r9, %rsi
        xor %rdx, %rdx
        mov $64, %ecx
1:      lodsq
        add %rax, %rdx
        dec %ecx
        jnz 1b
        mov %rbx, %rax
        shl $6, %rax
        cmp %rax, %rdx
        jne torn
        jmp loop
torn:   ud2
"""


def test_random_stops_never_tear_an_instruction() -> None:
    engine, handler = make_machine()
    load(engine, GUEST)
    cpu = engine.cpus[0]
    stops = 0
    finished = threading.Event()

    def kicker() -> None:
        source = random.Random(1)
        while not finished.is_set():
            engine.kick()
            time.sleep(source.random() * 0.0004)

    thread = threading.Thread(target=kicker)
    thread.start()
    try:
        while stops < STOPS and not handler.traps:
            engine.run(cpu)
            stops += 1
    finally:
        finished.set()
        thread.join()
    assert handler.traps == [], f"torn at {cpu.registers.rip:#x} after {stops} stops"
    assert cpu.registers.rbx > 1000


@pytest.mark.slow
def test_the_guest_of_this_test_notices_a_torn_instruction() -> None:
    """Without the cure the same guest fails: the proof that the test above can."""
    code = """
import sys
import ctypes
from pyxen.engine.emulator import library
unicorn = library.load()
original = library._address_of(unicorn, library._EXIT_CHECK)
path, base = library._mapping(original)
tags, _ = library._read_headers(path, base)
value = original - base
symbols = library._symbol_numbers(tags, [value])
(slot,) = library._find_slots(tags, symbols, library._DT_JMPREL)[value]
ctypes.c_uint64.from_address(base + slot).value = original
sys.path[:0] = sys.argv[1:]
import test_emulator_stop as stop
stop.STOPS = 100_000
try:
    stop.test_random_stops_never_tear_an_instruction()
except AssertionError as error:
    print(error)
"""
    folder = str(Path(__file__).parent)
    result = subprocess.run(
        [sys.executable, "-c", code, folder],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert "torn at" in result.stdout, result.stdout
