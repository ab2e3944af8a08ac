# SPDX-License-Identifier: GPL-2.0-or-later
"""What Xen says of itself (public/version.h).

xen_version answers questions about the hypervisor: its version as a number, names and dates as
fixed arrays of characters, the features (`features`), the start of its address range, the page
size, the domain's own UUID. A call of it also serves guests as a cheap way to have pending events
delivered.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.layout import Layout
from pyxen.abi.names import names_of

# version and pagesize return their answer; the others write to the address in the argument.
XENVER_version: Final = 0
XENVER_extraversion: Final = 1
XENVER_compile_info: Final = 2
XENVER_capabilities: Final = 3
XENVER_changeset: Final = 4
XENVER_platform_parameters: Final = 5
XENVER_get_features: Final = 6
XENVER_pagesize: Final = 7
XENVER_guest_handle: Final = 8
XENVER_commandline: Final = 9
XENVER_build_id: Final = 10
# As the operations of the same names without 2, but with XEN_VARBUF and any length.
XENVER_extraversion2: Final = 11
XENVER_capabilities2: Final = 12
XENVER_changeset2: Final = 13
XENVER_commandline2: Final = 14

XENVER_NAMES: Final[dict[int, str]] = names_of(globals(), "XENVER_")

# Sizes of the arrays of characters.
XEN_EXTRAVERSION_LEN: Final = 16
XEN_CAPABILITIES_INFO_LEN: Final = 1024
XEN_CHANGESET_INFO_LEN: Final = 64
XEN_COMMANDLINE_LEN: Final = 1024

XEN_COMPILE_INFO: Final = Layout(
    "xen_compile_info_t",
    ("compiler", "64s"),
    ("compile_by", "16s"),
    ("compile_domain", "32s"),
    ("compile_date", "32s"),
)
XEN_PLATFORM_PARAMETERS: Final = Layout("xen_platform_parameters_t", ("virt_start", "Q"))

# submap_idx is the question, submap the answer.
XEN_FEATURE_INFO: Final = Layout("xen_feature_info_t", ("submap_idx", "I"), ("submap", "I"))

# len bytes of buffer follow. Later headers call the same structure xen_varbuf.
XEN_BUILD_ID: Final = Layout("xen_build_id_t", ("len", "I"))
XEN_VARBUF: Final = XEN_BUILD_ID

NOT_IN_HEADERS: Final[dict[str, str]] = {
    "XENVER_extraversion2": "later than Xen 4.17",
    "XENVER_capabilities2": "later than Xen 4.17",
    "XENVER_changeset2": "later than Xen 4.17",
    "XENVER_commandline2": "later than Xen 4.17",
}
