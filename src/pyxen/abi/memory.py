# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory operations (public/memory.h).

By memory_op a domain changes the amount of its memory and asks about it. A balloon driver gives
frames back (decrease_reservation) and takes new ones for empty places (populate_physmap); a driver
that needs frames in a row exchanges scattered ones (exchange). A list of extents, each a power of
two of frames, says which; the result is the number of extents done, and a call may do a part only.
Other operations tell where the machine-to-physical table is, which memory map the guest is to
believe in, and how memory and vCPUs spread over virtual NUMA nodes. Domains whose frames Xen
translates (PVH, HVM) have special pages put into their address space (add_to_physmap).
"""

from __future__ import annotations

import struct
from typing import Final

from pyxen.abi.layout import Layout
from pyxen.abi.names import names_of
from pyxen.abi.physdev import PHYSDEV_PCI_DEVICE

XENMEM_increase_reservation: Final = 0
XENMEM_decrease_reservation: Final = 1
XENMEM_maximum_ram_page: Final = 2
XENMEM_current_reservation: Final = 3
XENMEM_maximum_reservation: Final = 4
XENMEM_machphys_mfn_list: Final = 5
XENMEM_populate_physmap: Final = 6
XENMEM_add_to_physmap: Final = 7
XENMEM_memory_map: Final = 9
XENMEM_machine_memory_map: Final = 10
XENMEM_exchange: Final = 11
XENMEM_machphys_mapping: Final = 12
XENMEM_set_memory_map: Final = 13
XENMEM_maximum_gpfn: Final = 14
XENMEM_remove_from_physmap: Final = 15
XENMEM_set_pod_target: Final = 16
XENMEM_get_pod_target: Final = 17
XENMEM_get_sharing_freed_pages: Final = 18
XENMEM_get_sharing_shared_pages: Final = 19
XENMEM_paging_op: Final = 20
XENMEM_access_op: Final = 21
XENMEM_sharing_op: Final = 22
XENMEM_add_to_physmap_batch: Final = 23
XENMEM_claim_pages: Final = 24
XENMEM_machphys_compat_mfn_list: Final = 25
XENMEM_get_vnumainfo: Final = 26
XENMEM_reserved_device_memory_map: Final = 27
XENMEM_acquire_resource: Final = 28

XENMEM_NAMES: Final[dict[int, str]] = names_of(globals(), "XENMEM_")

# xen_memory_reservation.mem_flags: width of the address in the low bits, then the node + 1, flags.
XENMEMF_ADDRESS_BITS_MASK: Final = 0xFF
XENMEMF_NODE_SHIFT: Final = 8
XENMEMF_populate_on_demand: Final = 1 << 16
XENMEMF_exact_node_request: Final = 1 << 17
XENMEMF_vnode: Final = 1 << 18

# xen_add_to_physmap.space: what is put at the gfn; idx counts in it.
XENMAPSPACE_shared_info: Final = 0
XENMAPSPACE_grant_table: Final = 1
XENMAPSPACE_gmfn: Final = 2
XENMAPSPACE_gmfn_range: Final = 3
XENMAPSPACE_gmfn_foreign: Final = 4
XENMAPSPACE_dev_mmio: Final = 5

XENMAPSPACE_NAMES: Final[dict[int, str]] = names_of(globals(), "XENMAPSPACE_")

# In idx of XENMAPSPACE_grant_table: the status frames of a version 2 table.
XENMAPIDX_grant_table_status: Final = 0x80000000

# xen_mem_acquire_resource.type, and the ids and frames within.
XENMEM_resource_ioreq_server: Final = 0
XENMEM_resource_grant_table: Final = 1
XENMEM_resource_vmtrace_buf: Final = 2
XENMEM_resource_grant_table_id_shared: Final = 0
XENMEM_resource_grant_table_id_status: Final = 1
XENMEM_resource_ioreq_server_frame_bufioreq: Final = 0

XENMEM_RDM_ALL: Final = 1

# Entry types of a memory map in the form of the BIOS call E820.
E820_RAM: Final = 1
E820_RESERVED: Final = 2
E820_ACPI: Final = 3
E820_NVS: Final = 4
E820_UNUSABLE: Final = 5

# extent_start: address of nr_extents frame numbers, each the first of 2**extent_order frames.
XEN_MEMORY_RESERVATION: Final = Layout(
    "xen_memory_reservation_t",
    ("extent_start", "Q"),
    ("nr_extents", "Q"),
    ("extent_order", "I"),
    ("mem_flags", "I"),
    ("domid", "H"),
)

# in and out are XEN_MEMORY_RESERVATION.
XEN_MEMORY_EXCHANGE: Final = Layout(
    "xen_memory_exchange_t",
    ("in", XEN_MEMORY_RESERVATION),
    ("out", XEN_MEMORY_RESERVATION),
    ("nr_exchanged", "Q"),
)
XEN_MEMORY_DOMAIN: Final = Layout("struct xen_memory_domain", ("domid", "H"))
XEN_MACHPHYS_MFN_LIST: Final = Layout(
    "xen_machphys_mfn_list_t",
    ("max_extents", "I"),
    ("extent_start", "Q"),
    ("nr_extents", "I"),
)
XEN_MACHPHYS_MAPPING: Final = Layout(
    "xen_machphys_mapping_t",
    ("v_start", "Q"),
    ("v_end", "Q"),
    ("max_mfn", "Q"),
)
XEN_ADD_TO_PHYSMAP: Final = Layout(
    "xen_add_to_physmap_t",
    ("domid", "H"),
    ("size", "H"),
    ("space", "I"),
    ("idx", "Q"),
    ("gpfn", "Q"),
)
XEN_ADD_TO_PHYSMAP_BATCH: Final = Layout(
    "xen_add_to_physmap_batch_t",
    ("domid", "H"),
    ("space", "H"),
    ("size", "H"),
    ("u.foreign_domid", "H"),
    ("idxs", "Q"),
    ("gpfns", "Q"),
    ("errs", "Q"),
)
XEN_REMOVE_FROM_PHYSMAP: Final = Layout(
    "xen_remove_from_physmap_t",
    ("domid", "H"),
    ("gpfn", "Q"),
)

# buffer: address of E820_ENTRY, nr_entries of them.
XEN_MEMORY_MAP: Final = Layout("xen_memory_map_t", ("nr_entries", "I"), ("buffer", "Q"))
XEN_FOREIGN_MEMORY_MAP: Final = Layout(
    "xen_foreign_memory_map_t",
    ("domid", "H"),
    ("map", XEN_MEMORY_MAP),
)

# Address, length, type; packed, so not a Layout (INT 15h, AX=E820h).
E820_ENTRY: Final = struct.Struct("<QQI")

XEN_POD_TARGET: Final = Layout(
    "xen_pod_target_t",
    ("target_pages", "Q"),
    ("tot_pages", "Q"),
    ("pod_cache_pages", "Q"),
    ("pod_entries", "Q"),
    ("domid", "H"),
)
XEN_RESERVED_DEVICE_MEMORY: Final = Layout(
    "xen_reserved_device_memory_t",
    ("start_pfn", "Q"),
    ("nr_pages", "Q"),
)
XEN_RESERVED_DEVICE_MEMORY_MAP: Final = Layout(
    "xen_reserved_device_memory_map_t",
    ("flags", "I"),
    ("nr_entries", "I"),
    ("buffer", "Q"),
    ("dev.pci", PHYSDEV_PCI_DEVICE),
)
XEN_MEM_ACQUIRE_RESOURCE: Final = Layout(
    "xen_mem_acquire_resource_t",
    ("domid", "H"),
    ("type", "H"),
    ("id", "I"),
    ("nr_frames", "I"),
    ("pad", "I"),
    ("frame", "Q"),
    ("frame_list", "Q"),
)
XEN_MEM_ACCESS_OP: Final = Layout(
    "xen_mem_access_op_t",
    ("op", "B"),
    ("access", "B"),
    ("domid", "H"),
    ("nr", "I"),
    ("pfn", "Q"),
    ("pfn_list", "Q"),
    ("access_list", "Q"),
)
XEN_VMEMRANGE: Final = Layout(
    "xen_vmemrange_t",
    ("start", "Q"),
    ("end", "Q"),
    ("flags", "I"),
    ("nid", "I"),
)
XEN_VNUMA_TOPOLOGY_INFO: Final = Layout(
    "xen_vnuma_topology_info_t",
    ("domid", "H"),
    ("pad", "H"),
    ("nr_vnodes", "I"),
    ("nr_vcpus", "I"),
    ("nr_vmemranges", "I"),
    ("vdistance.h", "Q"),
    ("vcpu_to_vnode.h", "Q"),
    ("vmemrange.h", "Q"),
)

NOT_IN_HEADERS: Final[dict[str, str]] = {
    "E820_RAM": "type of the BIOS memory map, which the header refers to",
    "E820_RESERVED": "type of the BIOS memory map, which the header refers to",
    "E820_ACPI": "type of the BIOS memory map, which the header refers to",
    "E820_NVS": "type of the BIOS memory map, which the header refers to",
    "E820_UNUSABLE": "type of the BIOS memory map, which the header refers to",
}
