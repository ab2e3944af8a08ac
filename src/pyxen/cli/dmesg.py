# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen dmesg``: the messages of the hypervisors of all domains, as Xen keeps them."""

from __future__ import annotations

import argparse


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser(
        "dmesg", parents=[common], help="print the hypervisor's messages since the host's start"
    )
    parser.add_argument("-c", "--clear", action="store_true", help="and forget them")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print them."""
    from pyxen.toolstack.folders import make_private
    from pyxen.toolstack.message_ring import MessageRing
    from pyxen.toolstack.registry import Registry

    registry = Registry()
    folder = make_private(registry.folder)
    if registry.is_of_this_boot():
        print(MessageRing(folder).read(clear=arguments.clear), end="")
    return 0
