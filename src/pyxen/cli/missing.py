# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs of xl that pyxen does not have yet, which say so."""

from __future__ import annotations

import argparse

from pyxen.errors import PyxenError

VERBS = (
    *("save", "restore", "migrate", "migrate-receive", "suspend", "resume", "remus"),
    *("sched-credit", "sched-rtds", "sharing", "vncviewer"),
    *("button-press", "cd-insert", "cd-eject", "qemu-monitor-command", "devd", "set-parameters"),
    *("cpupool-create", "cpupool-list", "cpupool-destroy", "cpupool-rename", "cpupool-cpu-add"),
    *("cpupool-cpu-remove", "cpupool-migrate", "cpupool-numa-split"),
    *("pci-attach", "pci-detach", "pci-list", "pci-assignable-add", "pci-assignable-remove"),
    "pci-assignable-list",
    *("usbctrl-attach", "usbctrl-detach", "usbdev-attach", "usbdev-detach", "usb-list"),
    *("vtpm-attach", "vtpm-list", "vtpm-detach", "vkb-attach", "vkb-list", "vkb-detach"),
    *("vdispl-attach", "vdispl-list", "vdispl-detach", "vsnd-attach", "vsnd-list", "vsnd-detach"),
    *("psr-hwinfo", "psr-cmt-attach", "psr-cmt-detach", "psr-cmt-show", "psr-cat-set"),
    *("psr-cat-show", "psr-mba-set", "psr-mba-show"),
    *("getenforce", "setenforce", "loadpolicy"),
)
"""Those of Xen 4.17, and ``suspend`` and ``resume`` of later ones."""


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare them; no help lists them."""
    for verb in VERBS:
        parser = verbs.add_parser(verb, parents=[common], add_help=False)
        parser.add_argument("words", nargs=argparse.REMAINDER)
        parser.set_defaults(execute=execute, verb=verb, can_dry_run=True)


def execute(arguments: argparse.Namespace) -> int:
    """Raises PyxenError."""
    raise PyxenError(f"{arguments.verb}: pyxen cannot do this yet")
