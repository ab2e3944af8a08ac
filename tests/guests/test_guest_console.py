# SPDX-License-Identifier: GPL-2.0-or-later
"""The console of a running guest, both ways."""

from __future__ import annotations

import hashlib
import random
import re
import signal
import time

import pytest
from guest import PROMPT, StartGuest

pytestmark = [pytest.mark.guest, pytest.mark.slow]

SIZE = 1 << 20
SYSRQ = b"\x0f"
"""Linux takes this byte on its console for the SysRq key; two of them are one byte of input."""


def test_a_megabyte_goes_in_and_comes_back(start_cloud: StartGuest) -> None:
    data = random.Random(1).randbytes(SIZE)
    checksum = hashlib.md5(data).hexdigest()
    guest = start_cloud()
    guest.open_shell()

    guest.send_line(
        f"stty raw -echo; printf '[%s]' go; head -c {SIZE} > /tmp/data; stty sane -echo; "
        "md5sum < /tmp/data"
    )
    guest.expect(re.escape("[go]"))
    guest.send(data.replace(SYSRQ, SYSRQ * 2))
    assert guest.expect(r"([0-9a-f]{32})  -\r\n")[1].decode() == checksum

    guest.send_line("stty -opost; printf '[%s]' go; cat /tmp/data; printf '[%s]' over; stty opost")
    guest.expect(re.escape("[go]"))
    returned = guest.expect(rb"(?s)(.{%d})\[over\]" % SIZE)[1]
    assert hashlib.md5(returned).hexdigest() == checksum

    # And the line is still as good as new.
    assert guest.check("echo $((6*7))") == "42"


def test_output_waits_for_a_slow_reader(start_cloud: StartGuest) -> None:
    guest = start_cloud(reading=False)
    time.sleep(2)
    guest.read()
    guest.open_shell()
    assert "Linux version" in guest.console
    guest.send_line("seq 20000; printf '[%s]' over; poweroff -f")
    assert guest.wait() == 0
    numbers = guest.console.split("[ready]")[1].split("[over]")[0]
    assert numbers.split() == [str(number) for number in range(1, 20_001)]


# A run that waits for its reader can be ended as any other.


def test_signal_ends_it_while_nobody_reads(start_cloud: StartGuest) -> None:
    guest = start_cloud(reading=False)
    time.sleep(2)
    guest.signal(signal.SIGTERM)
    assert guest.wait() == 128 + signal.SIGTERM


def test_time_out_ends_it_while_nobody_reads(start_cloud: StartGuest) -> None:
    guest = start_cloud("--timeout", "2", reading=False)
    assert guest.wait(10) == 124


def test_early_output_appears(start_cloud: StartGuest) -> None:
    # Without it the kernel keeps its first lines until hvc0 is there.
    guest = start_cloud("--cmdline", "console=hvc0 earlyprintk=xen")
    guest.expect("mapping kernel into physical memory")
    guest.expect("Linux version")
    guest.expect(r"printk: (legacy )?(boot)?console \[(early)?xenboot0\] enabled")
    guest.expect("Booting (paravirtualized )?kernel on Xen")


def test_shell_on_a_terminal(start_cloud: StartGuest) -> None:
    guest = start_cloud(on_terminal=True)
    guest.boot()
    # What is typed is echoed once: by the guest.
    guest.send_line("echo $((123450+6))")
    assert guest.expect(rb"(?s)(.*)\n123456\r")[1].count(b"echo $((123450+6))") == 1
    # Ctrl-C goes to the program in the guest, not to pyxen.
    guest.send_line("sh -c 'echo; echo started; sleep 1000'")
    guest.expect("\nstarted")
    guest.send(b"\x03")
    guest.expect(PROMPT)
    guest.send_line('echo "[status $?]"')
    guest.expect(re.escape("[status 130]"))
    guest.send_line("exit")
    assert guest.wait() == 0
    assert guest.terminal_mode() == guest.mode_at_start
