# SPDX-License-Identifier: GPL-2.0-or-later
"""xenpmu_op: the CPU's performance counters for guests (``public/pmu.h``).

Xen has them only if it was booted with ``vpmu=on``. Without, which is its default, it refuses every
operation, and so do we; Linux then does without.
"""

from __future__ import annotations

from pyxen.abi.errno import EOPNOTSUPP
from pyxen.abi.xen import HYPERVISOR_xenpmu_op
from pyxen.errors import XenError
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import Vcpu


@hypercall(HYPERVISOR_xenpmu_op)
def xenpmu_op(vcpu: Vcpu, operation: int, argument: int) -> int:
    raise XenError(EOPNOTSUPP)
