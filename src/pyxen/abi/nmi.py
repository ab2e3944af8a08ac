# SPDX-License-Identifier: GPL-2.0-or-later
"""NMI operations (public/nmi.h).

The vCPU 0 of the control domain may have the NMIs of the real machine delivered to it; the reason
then stands in arch_shared_info.nmi_reason. Other domains are refused with EINVAL; for them NMIs
come from their own vCPUs (VCPUOP_send_nmi), and the callback is registered by callback_op.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.layout import Layout
from pyxen.abi.names import names_of

XENNMI_register_callback: Final = 0
XENNMI_unregister_callback: Final = 1

XENNMI_NAMES: Final[dict[int, str]] = names_of(globals(), "XENNMI_")

XEN_NMIREASON_io_error: Final = 1 << 0
XEN_NMIREASON_pci_serr: Final = 1 << 1
XEN_NMIREASON_unknown: Final = 1 << 2

XENNMI_CALLBACK: Final = Layout("xennmi_callback_t", ("handler_address", "Q"), ("pad", "Q"))
