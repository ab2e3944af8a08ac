# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen itself: domains, memory, page tables, traps, events, grants, time and the hypercalls."""
