# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen image``: the guests that can be fetched, and ramdisks for one's own kernels."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pyxen.cli.seed_options import add_seed_arguments, seed_of


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and the verbs below it."""
    parser = verbs.add_parser(
        "image",
        help="fetch, list and remove images of guests",
        description="Fetch, list and remove images of guests, and build ramdisks.",
    )
    below = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    pull = below.add_parser(
        "pull",
        parents=[common],
        help="fetch an image",
        description="Fetch a kernel from its distribution and build a ramdisk for it.",
    )
    pull.add_argument("name", metavar="NAME", help="which one, for example debian")
    pull.set_defaults(execute=_pull)

    listing = below.add_parser("list", parents=[common], help="list the images that are here")
    listing.set_defaults(execute=_list)

    remove = below.add_parser("remove", parents=[common], help="remove an image")
    remove.add_argument("name", metavar="NAME", help="which one")
    remove.set_defaults(execute=_remove)

    copy = below.add_parser(
        "copy-disk",
        parents=[common],
        help="copy an image's disk, to keep what a guest changes",
        description="Copy an image's disk into a file, for `pyxen run --image NAME "
        "--disk FILE,raw,xvda,rw`: what the guest changes then stays.",
    )
    copy.add_argument("name", metavar="NAME", help="which image")
    copy.add_argument("output", metavar="FILE", type=Path, help="the file to write")
    copy.set_defaults(execute=_copy_disk)

    seed = below.add_parser(
        "seed",
        parents=[common],
        help="write a disk that tells cloud-init in a guest what to do",
        description="Write a disk (NoCloud) that tells cloud-init in a guest what to do at its "
        "first start, for `pyxen run --disk FILE,raw,xvdb,ro`.",
    )
    seed.add_argument("output", metavar="FILE", type=Path, help="the file to write")
    add_seed_arguments(seed)
    seed.set_defaults(execute=_seed, usage_error=seed.error)

    build = below.add_parser(
        "build-initramfs",
        parents=[common],
        help="build a ramdisk with busybox",
        description="Build a ramdisk with busybox and, if wanted, kernel modules and own files.",
    )
    build.add_argument("output", metavar="FILE", type=Path, help="the file to write")
    build.add_argument(
        "--busybox",
        metavar="FILE",
        type=Path,
        help="a statically linked busybox (default: the distribution's, fetched)",
    )
    build.add_argument(
        "--modules",
        metavar="PATH",
        type=Path,
        help="take the modules of the Xen front ends from here: the folder of one kernel release, "
        "or a kernel package, unpacked or not",
    )
    build.add_argument(
        "--add",
        metavar="FILE:PATH",
        type=_host_and_guest_path,
        action="append",
        default=[],
        help="put a file or folder of this machine at an absolute path of the guest (repeatable)",
    )
    build.set_defaults(execute=_build_initramfs)


def _pull(arguments: argparse.Namespace) -> int:
    from pyxen.toolstack import images
    from pyxen.toolstack.progress import progress_on

    image = images.pull_image(arguments.name, progress_on(sys.stderr))
    print(f"{image.name}: {image.description}, {_megabytes(image.size)}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from pyxen.toolstack import images

    for image in images.list():
        print(f"{image.name:20}{_megabytes(image.size):>10}  {image.pulled:26}{image.description}")
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    from pyxen.toolstack import images

    images.remove(arguments.name)
    return 0


def _copy_disk(arguments: argparse.Namespace) -> int:
    from pyxen.toolstack import images

    images.copy_disk(arguments.name, arguments.output)
    return 0


def _seed(arguments: argparse.Namespace) -> int:
    from pyxen.toolstack import images

    seed = seed_of(arguments)
    if not seed:
        arguments.usage_error(
            "nothing to tell: give --hostname, --password, --ssh-key, --user-data"
        )
    images.write_seed_file(arguments.output, seed)
    return 0


def _build_initramfs(arguments: argparse.Namespace) -> int:
    from pyxen.toolstack import images
    from pyxen.toolstack.progress import progress_on

    images.build_initramfs(
        arguments.output,
        busybox=arguments.busybox,
        kernel_modules=arguments.modules,
        files=arguments.add,
        progress=progress_on(sys.stderr),
    )
    return 0


def _host_and_guest_path(text: str) -> tuple[Path, str]:
    host, colon, guest = text.rpartition(":")
    if not (colon and host and guest.startswith("/")):
        raise argparse.ArgumentTypeError(f"{text!r} is not FILE:PATH with an absolute PATH")
    return Path(host), guest


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
