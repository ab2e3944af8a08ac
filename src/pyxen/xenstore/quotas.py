# SPDX-License-Identifier: GPL-2.0-or-later
"""How much of the store an unprivileged domain may use. Defaults are those of Xen 4.17."""

from __future__ import annotations

import sys
from typing import Final

from msgspec import Struct


class Quotas(Struct):
    """Changed while the store runs, for all by ``xenstore-control quota set``, or for one domain by
    SET_QUOTA. Sizes are bytes. 0: no limit."""

    nodes: int = 1000
    watches: int = 128
    transactions: int = 10
    outstanding: int = 20
    """Requests whose answers, or the events that they caused, have not been taken yet."""
    transaction_nodes: int = 1024
    memory: int = 2 * 1024 * 1024 + 512 * 1024
    memory_soft: int = 2 * 1024 * 1024
    """What is above it is only told to the log."""
    node_size: int = 2048
    path_max: int = 2048
    """Of a path that is relative to the directory of a domain."""
    node_permissions: int = 5


def limit(quota: int) -> int:
    """A quota as a number to compare with."""
    return quota or sys.maxsize


HARD: Final = {
    "nodes": ("nodes", "Nodes per domain"),
    "watches": ("watches", "Watches per domain"),
    "transactions": ("transactions", "Transactions per domain"),
    "outstanding": ("outstanding", "Outstanding requests per domain"),
    "transaction-nodes": ("transaction_nodes", "Max. number of accessed nodes per transaction"),
    "memory": ("memory", "Total Xenstore memory per domain (error level)"),
    "node-size": ("node_size", "Max. size of a node"),
    "path-max": ("path_max", "Max. length of a node path"),
    "permissions": ("node_permissions", "Max. number of permissions per node"),
}
"""By the name that a request gives: the field, and what it is."""

SOFT: Final = {"memory": ("memory_soft", "Total Xenstore memory per domain (warning level)")}
