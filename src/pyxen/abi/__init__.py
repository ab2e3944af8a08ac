# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen's public interface as data.

One module per public header of Xen: the numbers, and the structures that cross between a guest and
the hypervisor, as they are on x86-64. Nothing here does anything. Names are those of the headers,
without leading underscores; a structure `struct multicall_entry` is the `Layout`
`MULTICALL_ENTRY`. The reference is Xen 4.17; what a later version added, or what no header spells
out, stands in the `NOT_IN_HEADERS` table of its module, with the reason.
"""
