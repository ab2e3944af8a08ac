# SPDX-License-Identifier: GPL-2.0-or-later
"""Grant tables (public/grant_table.h).

By grants a domain lets another one use some of its frames; all data of PV devices moves that way.
A domain has a table of entries in frames that it shares with Xen, and writes entries there itself:
who may do what with which frame. The index of an entry is the grant reference, which it passes to
the other domain by a ring or by xenstore. That domain asks Xen to map the frame (getting a handle,
by which it unmaps later), or to copy to or from it. Xen sets GTF_reading and GTF_writing while the
frame is in use, and the granter may take the entry back only when both are clear.

Version 1 entries have 8 bytes. Version 2 entries have 16, for frame numbers above 32 bits, parts
of a frame, and grants of another domain's grant; Xen's two flags then stand apart, in a table of
status words of 16 bits. Each item of an operation has its own status: 0, or a GNTST_* below 0.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.layout import Layout
from pyxen.abi.names import names_of

GNTTABOP_map_grant_ref: Final = 0
GNTTABOP_unmap_grant_ref: Final = 1
GNTTABOP_setup_table: Final = 2
GNTTABOP_dump_table: Final = 3
GNTTABOP_transfer: Final = 4
GNTTABOP_copy: Final = 5
GNTTABOP_query_size: Final = 6
GNTTABOP_unmap_and_replace: Final = 7
GNTTABOP_set_version: Final = 8
GNTTABOP_get_status_frames: Final = 9
GNTTABOP_get_version: Final = 10
GNTTABOP_swap_grant_ref: Final = 11
GNTTABOP_cache_flush: Final = 12

GNTTABOP_NAMES: Final[dict[int, str]] = names_of(globals(), "GNTTABOP_")

# The first references belong to the tools, which grant the console and xenstore pages to dom0.
GNTTAB_NR_RESERVED_ENTRIES: Final = 8
GNTTAB_RESERVED_CONSOLE: Final = 0
GNTTAB_RESERVED_XENSTORE: Final = 1

# Flags of an entry: the type in the low two bits, then what depends on the type.
GTF_invalid: Final = 0
GTF_permit_access: Final = 1
GTF_accept_transfer: Final = 2
GTF_transitive: Final = 3
GTF_type_mask: Final = 3
GTF_readonly: Final = 1 << 2
GTF_reading: Final = 1 << 3
GTF_writing: Final = 1 << 4
GTF_PWT: Final = 1 << 5
GTF_PCD: Final = 1 << 6
GTF_PAT: Final = 1 << 7
GTF_sub_page: Final = 1 << 8
# With GTF_accept_transfer, set by Xen.
GTF_transfer_committed: Final = 1 << 2
GTF_transfer_completed: Final = 1 << 3

# gnttab_copy.flags: the side is a grant reference, and not a frame of the caller.
GNTCOPY_source_gref: Final = 1 << 0
GNTCOPY_dest_gref: Final = 1 << 1

# gnttab_cache_flush.op.
GNTTAB_CACHE_CLEAN: Final = 1 << 0
GNTTAB_CACHE_INVAL: Final = 1 << 1
GNTTAB_CACHE_SOURCE_GREF: Final = 1 << 31

# gnttab_map_grant_ref.flags. The bits of the mask go into the available bits of the entry written.
GNTMAP_device_map: Final = 1 << 0
GNTMAP_host_map: Final = 1 << 1
GNTMAP_readonly: Final = 1 << 2
GNTMAP_application_map: Final = 1 << 3
GNTMAP_contains_pte: Final = 1 << 4
GNTMAP_guest_avail0: Final = 16
GNTMAP_guest_avail_mask: Final = 0xFFFF0000

GNTST_okay: Final = 0
GNTST_general_error: Final = -1
GNTST_bad_domain: Final = -2
GNTST_bad_gntref: Final = -3
GNTST_bad_handle: Final = -4
GNTST_bad_virt_addr: Final = -5
GNTST_bad_dev_addr: Final = -6
GNTST_no_device_space: Final = -7
GNTST_permission_denied: Final = -8
GNTST_bad_page: Final = -9
GNTST_bad_copy_arg: Final = -10
GNTST_address_too_big: Final = -11
GNTST_eagain: Final = -12
GNTST_no_space: Final = -13

GNTST_NAMES: Final[dict[int, str]] = names_of(globals(), "GNTST_")

# Entries of the table.
GRANT_ENTRY_V1: Final = Layout(
    "grant_entry_v1_t",
    ("flags", "H"),
    ("domid", "H"),
    ("frame", "I"),
)
GRANT_ENTRY_HEADER: Final = Layout("grant_entry_header_t", ("flags", "H"), ("domid", "H"))

# A version 2 entry is a union: which of the three it is follows from the flags.
GRANT_ENTRY_V2_FULL_PAGE: Final = Layout(
    "grant_entry_v2_t",
    ("full_page.hdr.flags", "H"),
    ("full_page.hdr.domid", "H"),
    ("full_page.pad0", "I"),
    ("full_page.frame", "Q"),
)
GRANT_ENTRY_V2_SUB_PAGE: Final = Layout(
    "grant_entry_v2_t",
    ("sub_page.hdr.flags", "H"),
    ("sub_page.hdr.domid", "H"),
    ("sub_page.page_off", "H"),
    ("sub_page.length", "H"),
    ("sub_page.frame", "Q"),
)
GRANT_ENTRY_V2_TRANSITIVE: Final = Layout(
    "grant_entry_v2_t",
    ("transitive.hdr.flags", "H"),
    ("transitive.hdr.domid", "H"),
    ("transitive.trans_domid", "H"),
    ("transitive.pad0", "H"),
    ("transitive.gref", "I"),
    size=GRANT_ENTRY_V2_FULL_PAGE.size,
)

# The status word that belongs to a version 2 entry has 16 bits: GTF_reading and GTF_writing.
GRANT_STATUS_SIZE: Final = 2

# Arguments of the operations; each takes an array of them.
GNTTAB_MAP_GRANT_REF: Final = Layout(
    "gnttab_map_grant_ref_t",
    ("host_addr", "Q"),
    ("flags", "I"),
    ("ref", "I"),
    ("dom", "H"),
    ("status", "h"),
    ("handle", "I"),
    ("dev_bus_addr", "Q"),
)
GNTTAB_UNMAP_GRANT_REF: Final = Layout(
    "gnttab_unmap_grant_ref_t",
    ("host_addr", "Q"),
    ("dev_bus_addr", "Q"),
    ("handle", "I"),
    ("status", "h"),
)

# frame_list: address of an array of frame numbers, 64 bits each.
GNTTAB_SETUP_TABLE: Final = Layout(
    "gnttab_setup_table_t",
    ("dom", "H"),
    ("nr_frames", "I"),
    ("status", "h"),
    ("frame_list", "Q"),
)
GNTTAB_DUMP_TABLE: Final = Layout("gnttab_dump_table_t", ("dom", "H"), ("status", "h"))
GNTTAB_TRANSFER: Final = Layout(
    "gnttab_transfer_t",
    ("mfn", "Q"),
    ("domid", "H"),
    ("ref", "I"),
    ("status", "h"),
)

# u.gmfn is a frame; where flags say so it is u.ref, which is the low 32 bits alone (the guest need
# not clear the others). source and dest are structures of 16 bytes.
GNTTAB_COPY: Final = Layout(
    "gnttab_copy_t",
    ("source.u.gmfn", "Q"),
    ("source.domid", "H"),
    ("source.offset", "H"),
    ("dest.u.gmfn", "Q"),
    ("dest.domid", "H"),
    ("dest.offset", "H"),
    ("", "4x"),
    ("len", "H"),
    ("flags", "H"),
    ("status", "h"),
)
GNTTAB_QUERY_SIZE: Final = Layout(
    "gnttab_query_size_t",
    ("dom", "H"),
    ("nr_frames", "I"),
    ("max_nr_frames", "I"),
    ("status", "h"),
)
GNTTAB_UNMAP_AND_REPLACE: Final = Layout(
    "gnttab_unmap_and_replace_t",
    ("host_addr", "Q"),
    ("new_addr", "Q"),
    ("handle", "I"),
    ("status", "h"),
)
GNTTAB_SET_VERSION: Final = Layout("gnttab_set_version_t", ("version", "I"))
GNTTAB_GET_STATUS_FRAMES: Final = Layout(
    "gnttab_get_status_frames_t",
    ("nr_frames", "I"),
    ("dom", "H"),
    ("status", "h"),
    ("frame_list", "Q"),
)
GNTTAB_GET_VERSION: Final = Layout(
    "gnttab_get_version_t",
    ("dom", "H"),
    ("pad", "H"),
    ("version", "I"),
)
GNTTAB_SWAP_GRANT_REF: Final = Layout(
    "gnttab_swap_grant_ref_t",
    ("ref_a", "I"),
    ("ref_b", "I"),
    ("status", "h"),
)

# a.dev_bus_addr, or with GNTTAB_CACHE_SOURCE_GREF a.ref, which is its low 32 bits.
GNTTAB_CACHE_FLUSH: Final = Layout(
    "gnttab_cache_flush_t",
    ("a.dev_bus_addr", "Q"),
    ("offset", "H"),
    ("length", "H"),
    ("op", "I"),
)
