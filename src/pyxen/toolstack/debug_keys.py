# SPDX-License-Identifier: GPL-2.0-or-later
"""Debug keys for the hypervisors of all domains, in the order in which Xen goes through them."""

from __future__ import annotations

from pyxen.errors import PyxenError
from pyxen.hypervisor.keyhandler import HANDLERS, show_handlers
from pyxen.toolstack.control.client import ControlClient, ControlError
from pyxen.toolstack.control.messages import DebugKey
from pyxen.toolstack.folders import make_private
from pyxen.toolstack.message_ring import MessageRing
from pyxen.toolstack.registry import Registry, holds_lock

_SECONDS = 10.0
"""So long a domain may take for one."""


def send_debug_keys(keys: str) -> list[str]:
    """Let each dump what it stands for; as under Xen, one that is unknown does nothing.

    Returns what went wrong, a line for each. Raises PyxenError if messages cannot be kept.
    """
    registry = Registry()
    ring = MessageRing(make_private(registry.folder))
    problems: list[str] = []
    try:
        for key in keys:
            if key == "h":
                ring.append(show_handlers())
            elif key == "*":
                ring.append(["'*' pressed -> firing all diagnostic keyhandlers"])
                for each, handler in HANDLERS.items():
                    ring.append([f"[{each}: {handler.description}]"])
                    problems += _send(registry, ring, each)
            elif key in HANDLERS:
                problems += _send(registry, ring, key)
    except OSError as error:
        raise PyxenError(f"{ring.path}: {error.strerror}") from None
    return problems


def _send(registry: Registry, ring: MessageRing, key: str) -> list[str]:
    ring.append([HANDLERS[key].begin])
    problems = []
    for entry in registry.entries():
        if not entry.alive:
            continue
        try:
            with ControlClient(entry.folder, _SECONDS) as client:
                client.ask(DebugKey(key))
        except ControlError as error:
            if holds_lock(entry.folder / "lock"):  # else it has ended meanwhile
                problems.append(str(error))
        except PyxenError as error:
            problems.append(f"domain {entry.record.domid}: {error}")
    return problems
