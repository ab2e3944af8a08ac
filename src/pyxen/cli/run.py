# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen run``: boot a guest in this process, with its console on standard input and output."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pyxen.cli.numbers import positive_integer, positive_number
from pyxen.cli.seed_options import add_seed_arguments, seed_of
from pyxen.errors import PyxenError

if TYPE_CHECKING:
    from pyxen.toolstack.config import DomainConfig
    from pyxen.toolstack.lifecycle import Outcome

EXIT_STATUS = {
    "poweroff": 0,
    "detached": 0,
    "crash": 3,
    "watchdog": 3,
    "reboot": 4,
    "timeout": 124,
}

# xl would save the domain and build it anew in place. We can do neither yet.
UNSUPPORTED = {
    "suspend": "the guest asks to be suspended, which pyxen cannot do; it was ended",
    "soft_reset": "the guest asks for a soft reset, which pyxen cannot do; it was ended",
}

EPILOG = """\
The console is that of the guest; Ctrl-] leaves it and ends the domain.

exit status:
  0    the guest powered off, or Ctrl-] was pressed
  1    an error of pyxen or of its input; the guest asked for a suspend or a soft reset
  2    wrong arguments
  3    the guest crashed
  4    the guest rebooted, and --no-reboot was given
  124  the time was up
  128+N  signal N ended the run (141: the reader of standard output went away)
"""


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser(
        "run",
        parents=[common],
        help="boot a guest with its console on this terminal",
        description="Boot a guest in this process, with its console on standard input and output.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    guest = parser.add_mutually_exclusive_group(required=True)
    guest.add_argument("--image", metavar="NAME", help="an image (see: pyxen image list)")
    guest.add_argument("--kernel", metavar="FILE", type=Path, help="a kernel: ELF or bzImage")
    parser.add_argument(
        "--ramdisk", metavar="FILE", type=Path, help="the kernel's ramdisk (default: the image's)"
    )
    parser.add_argument(
        "--system-map",
        metavar="FILE",
        type=Path,
        help="the kernel's System.map, for names in a crash report",
    )
    parser.add_argument(
        "--cmdline",
        metavar="TEXT",
        help="the kernel's command line (default: console=hvc0, and root=/dev/xvda ro for an image "
        "with a disk)",
    )
    parser.add_argument(
        "--memory",
        metavar="MIB",
        type=positive_integer,
        default=256,
        help="the guest's memory in MiB (default: %(default)s)",
    )
    parser.add_argument(
        "--vcpus",
        metavar="N",
        type=positive_integer,
        default=1,
        help="the number of virtual CPUs, 1 to 128 (default: %(default)s)",
    )
    parser.add_argument(
        "--cap",
        metavar="PERCENT",
        type=positive_integer,
        default=0,
        help="what the virtual CPUs may use together, in percent of a processor (default: all)",
    )
    parser.add_argument(
        "--cpuid",
        metavar="SPEC",
        action="append",
        default=[],
        help="what CPUID shows otherwise, as in xl.cfg: host,NAME=0,... or LEAF:REGISTER=BITS,...",
    )
    parser.add_argument(
        "--disk",
        metavar="SPEC",
        action="append",
        default=[],
        help="a disk, as in xl.cfg: FILE,FORMAT,VDEV,ACCESS, such as root.img,raw,xvda,rw",
    )
    parser.add_argument(
        "--net",
        metavar="SPEC",
        action="append",
        default=[],
        help="a network card, as in xl.cfg: mac=..,bridge=..; or user,hostfwd=tcp:2222:22",
    )
    parser.add_argument(
        "--channel",
        metavar="SPEC",
        action="append",
        default=[],
        help="a further console, as in xl.cfg: name=NAME,connection=pty or socket,path=PATH",
    )
    parser.add_argument(
        "--console-log",
        metavar="FILE[,timestamp][,limit=SIZE][,keep=N]",
        help="record the output of the console in a file, too",
    )
    add_seed_arguments(parser)
    parser.add_argument("--name", help="the domain's name (default: that of the image or kernel)")
    parser.add_argument(
        "--engine",
        choices=("auto", "emulator"),
        default="auto",
        help="what executes the guest's instructions (default: %(default)s; see: pyxen info)",
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=positive_number, help="end the domain after so long"
    )
    parser.add_argument(
        "--no-reboot", action="store_true", help="end, with status 4, when the guest reboots"
    )
    parser.add_argument(
        "--stats",
        action="store_true",
        help="print at the end which hypercalls and traps took how long",
    )
    parser.add_argument(
        "--stats-json", metavar="FILE", type=Path, help="write the same figures to a file"
    )
    parser.set_defaults(execute=execute, usage_error=parser.error)


def execute(arguments: argparse.Namespace) -> int:
    """Run the guest to its end; the exit status says which end that was."""
    from pyxen.cli.terminal import Terminal
    from pyxen.toolstack import lifecycle

    # Copies of disks, and seeds, are there as long as the guest.
    with ExitStack() as resources:
        config = _config(arguments, resources)
        with Terminal() as terminal:
            outcome = lifecycle.run(config, terminal, timeout=arguments.timeout)
    _report(arguments, outcome)
    terminal.check()
    if terminal.ended_by is not None:
        return 128 + terminal.ended_by
    if outcome.exit_reason in UNSUPPORTED:
        raise PyxenError(UNSUPPORTED[outcome.exit_reason])
    return EXIT_STATUS[outcome.exit_reason]


def _config(arguments: argparse.Namespace, resources: ExitStack) -> DomainConfig:
    from pyxen.toolstack import images
    from pyxen.toolstack.config import DomainConfig
    from pyxen.toolstack.console_log import parse_console_log
    from pyxen.toolstack.cpuid_config import parse_cpuid
    from pyxen.toolstack.devices.channel import parse_channel
    from pyxen.toolstack.devices.disk import parse_disk
    from pyxen.toolstack.devices.nic import parse_nic

    kernel, ramdisk, command_line = arguments.kernel, arguments.ramdisk, "console=hvc0"
    disks = [parse_disk(spec) for spec in arguments.disk]
    seed = seed_of(arguments)
    if arguments.image is not None:
        image = images.find(arguments.image)
        kernel, ramdisk = image.kernel, arguments.ramdisk or image.ramdisk
        command_line = image.command_line
        disks += resources.enter_context(images.root_disk(image, disks))
    if seed:
        disks.append(resources.enter_context(images.seed_disk(seed, disks)))
    return DomainConfig(
        kernel=kernel,
        ramdisk=ramdisk,
        command_line=command_line if arguments.cmdline is None else arguments.cmdline,
        memory_mib=arguments.memory,
        vcpus=arguments.vcpus,
        engine=arguments.engine,
        on_reboot="destroy" if arguments.no_reboot else "restart",
        system_map=arguments.system_map,
        cap=arguments.cap,
        cpuid=parse_cpuid(arguments.cpuid),
        name=arguments.name or arguments.image or arguments.kernel.name,
        disks=tuple(disks),
        nics=tuple(parse_nic(spec) for spec in arguments.net),
        channels=tuple(parse_channel(spec) for spec in arguments.channel),
        console_log=parse_console_log(arguments.console_log) if arguments.console_log else None,
    )


def _report(arguments: argparse.Namespace, outcome: Outcome) -> None:
    """Tell on standard error what the run leaves behind: the crash report, the figures."""
    if outcome.report is not None:
        print(outcome.report, file=sys.stderr)
    if arguments.stats:
        from pyxen.cli.statistics import table

        print(table(outcome.statistics), file=sys.stderr)
    if arguments.stats_json is not None:
        text = json.dumps(outcome.statistics.to_dict(), indent=2)
        try:
            arguments.stats_json.write_text(text + "\n")
        except OSError as error:
            raise PyxenError(f"{arguments.stats_json}: {error.strerror}") from error
