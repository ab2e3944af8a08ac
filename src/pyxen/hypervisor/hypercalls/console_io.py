# SPDX-License-Identifier: GPL-2.0-or-later
"""console_io: the hypervisor's own console, which early kernels print to."""

from __future__ import annotations

from pyxen.abi.errno import ENOSYS
from pyxen.abi.xen import CONSOLEIO_read, CONSOLEIO_write, HYPERVISOR_console_io
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.page_flags import PAGE_SIZE
from pyxen.hypervisor.vcpu import Vcpu


@hypercall(HYPERVISOR_console_io)
def console_io(vcpu: Vcpu, command: int, count: int, buffer: int) -> int:
    """Output goes where the domain's console goes; there is nothing to read."""
    if command == CONSOLEIO_write:
        count &= 0xFFFFFFFF
        done = 0
        while done < count:
            part = min(count - done, PAGE_SIZE)
            vcpu.domain.console_output(guest_access.copy_from(vcpu, buffer + done, part))
            done += part
        return 0
    if command == CONSOLEIO_read:
        return 0
    raise XenError(ENOSYS)
