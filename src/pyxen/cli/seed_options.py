# SPDX-License-Identifier: GPL-2.0-or-later
"""The options that say what a guest is told at its first start, of `run` and of `image seed`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyxen.toolstack.images import Seed


def add_seed_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    group = parser.add_argument_group(
        "first start", "for guests with cloud-init, such as the image debian-disk"
    )
    group.add_argument("--hostname", metavar="NAME", help="the guest's host name")
    group.add_argument("--password", metavar="TEXT", help="root's password")
    group.add_argument(
        "--ssh-key",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="a public key for logging in by ssh (repeatable)",
    )
    group.add_argument(
        "--user-data", metavar="FILE", type=Path, help="user data of cloud-init, done besides"
    )


def seed_of(arguments: argparse.Namespace) -> Seed:
    """Return what they ask for; false if that is nothing. Raises PyxenError."""
    from pyxen.toolstack import images

    return images.read_seed(
        arguments.hostname, arguments.password, arguments.ssh_key, arguments.user_data
    )
