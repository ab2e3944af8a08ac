# SPDX-License-Identifier: GPL-2.0-or-later
"""update_descriptor: change one descriptor by its machine address.

In a table that is in use, or in a frame that is in use as nothing else; it is checked in any case.
"""

from __future__ import annotations

from pyxen.abi.errno import EINVAL
from pyxen.abi.xen import HYPERVISOR_update_descriptor
from pyxen.errors import XenError
from pyxen.hypervisor.descriptor_tables import check_descriptor
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.page_flags import PAGE_SHIFT
from pyxen.hypervisor.page_types import SEGMENT_DESCRIPTORS, WRITABLE
from pyxen.hypervisor.vcpu import Vcpu


@hypercall(HYPERVISOR_update_descriptor)
def update_descriptor(vcpu: Vcpu, machine_address: int, descriptor: int) -> int:
    domain = vcpu.domain
    tables = domain.pagetables
    mfn = machine_address >> PAGE_SHIFT
    if machine_address & 7:
        raise XenError(EINVAL)
    descriptor = check_descriptor(descriptor)
    if not domain.memory.is_owned(mfn):
        raise XenError(EINVAL)
    in_table = tables.types[mfn] == SEGMENT_DESCRIPTORS
    tables.get_page_and_type(mfn, SEGMENT_DESCRIPTORS if in_table else WRITABLE)
    domain.memory.words[machine_address >> 3] = descriptor
    tables.put_page_and_type(mfn)
    return 0
