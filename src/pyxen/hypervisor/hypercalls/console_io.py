# SPDX-License-Identifier: GPL-2.0-or-later
"""console_io: the hypervisor's own console, which early kernels print to."""

from __future__ import annotations

from typing import Final

from pyxen.abi.errno import E2BIG, ENOSYS
from pyxen.abi.xen import CONSOLEIO_read, CONSOLEIO_write, HYPERVISOR_console_io
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.addresses import UINT32
from pyxen.hypervisor.continuation import Continuation
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.page_flags import PAGE_SIZE
from pyxen.hypervisor.vcpu import Vcpu

_INT_MAX: Final = 0x7FFFFFFF


@hypercall(HYPERVISOR_console_io)
def console_io(vcpu: Vcpu, command: int, count: int, buffer: int) -> int:
    """Output goes where the domain's console goes; there is nothing to read."""
    command &= UINT32
    count &= UINT32
    if command == CONSOLEIO_write:
        _write(vcpu, count, buffer)
        return 0
    if command == CONSOLEIO_read:
        if count > _INT_MAX:
            raise XenError(E2BIG)
        return 0
    raise XenError(ENOSYS)


def _write(vcpu: Vcpu, count: int, buffer: int) -> None:
    done = 0
    while done < count:
        if done and vcpu.domain.preempt_check(vcpu):
            raise Continuation(CONSOLEIO_write, count - done, buffer + done)
        part = min(count - done, PAGE_SIZE)
        vcpu.domain.console_output(guest_access.copy_from(vcpu, buffer + done, part))
        done += part
