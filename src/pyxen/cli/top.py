# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen top``: what domains use, live, or with ``-b`` as lines in xentop's format."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pyxen import __version__
from pyxen.cli.numbers import positive_integer, positive_number

if TYPE_CHECKING:
    from pyxen.cli.top_columns import View

_LONGEST_DELAY = 1e6  # seconds: the system cannot wait for any time
_EPILOG = """\
Keys: D delay, N networks, B vbds, V vcpus, R repeat the header, S sort by the next column, arrows
scroll, Q quit. RX is what a guest sends and TX what it receives, as with xentop; the full screen
has rates, -b what was since the start.
"""


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser(
        "top", parents=[common], help="watch what domains use", epilog=_EPILOG
    )
    parser.add_argument("-V", "--version", action="version", version=f"pyxen {__version__}")
    parser.add_argument(
        "-d",
        "--delay",
        type=positive_number,
        default=3.0,
        metavar="SECONDS",
        help="from one update to the next (default: 3)",
    )
    parser.add_argument("-n", "--networks", action="store_true", help="each network card, too")
    parser.add_argument("-x", "--vbds", action="store_true", help="each disk, too")
    parser.add_argument(
        "-r", "--repeat-header", action="store_true", help="the header before each domain"
    )
    parser.add_argument("-v", "--vcpus", action="store_true", help="each vCPU, too")
    parser.add_argument("-f", "--full-name", action="store_true", help="names in full length")
    parser.add_argument("-b", "--batch", action="store_true", help="print lines, and take no keys")
    parser.add_argument(
        "-i", "--iterations", type=positive_integer, metavar="N", help="end after so many updates"
    )
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Show them until the iterations are over, a key quits or a signal comes."""
    from pyxen.cli.top_columns import View

    view = View(
        networks=arguments.networks,
        vbds=arguments.vbds,
        vcpus=arguments.vcpus,
        repeat_header=arguments.repeat_header,
        full_name=arguments.full_name,
    )
    delay = min(arguments.delay, _LONGEST_DELAY)
    if arguments.batch:
        return _print(view, delay, arguments.iterations)
    from pyxen.cli.top_screen import show

    return show(view, delay, arguments.iterations)


def _print(view: View, delay: float, iterations: int | None) -> int:
    import signal
    import sys

    from pyxen.cli.top_columns import XENTOP, table
    from pyxen.cli.top_details import xentop_details
    from pyxen.toolstack.usage import Sample, compare, take_samples

    ends = (signal.SIGINT, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # they are waited for
    before: list[Sample] = []
    told: set[str] = set()
    while True:
        samples = take_samples()
        for line in table(view, XENTOP, compare(samples, before), xentop_details):
            print(" ".join(line.cells))
        sys.stdout.flush()
        for note in [sample.note for sample in samples if sample.note]:
            if note not in told:
                told.add(note)
                print(f"pyxen: {note}", file=sys.stderr)
        if iterations is not None:
            iterations -= 1
        if iterations == 0 or signal.sigtimedwait(ends, delay) is not None:
            return 0
        before = samples
