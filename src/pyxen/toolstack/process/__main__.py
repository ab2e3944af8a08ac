# SPDX-License-Identifier: GPL-2.0-or-later
"""The beginning of a domain's process.

It is started by ``start.NewProcess``, and gets its order when it has been loaded. It has a session
of its own, and leaves its starter at once, so that nobody has to wait for its end.
"""

from __future__ import annotations

import gc
import os
import sys


def main() -> int:
    if os.fork():
        os._exit(0)  # whoever waits for this process waits no more
    # Collections would make loading a quarter slower and find nothing. What is loaded stays: later
    # ones need not look at it, and what is not looked at stays memory that the broker shares.
    gc.disable()
    from pyxen.toolstack.process.begin import begin

    gc.freeze()
    gc.enable()
    return begin()


if __name__ == "__main__":
    sys.exit(main())
