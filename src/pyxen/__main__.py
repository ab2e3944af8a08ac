# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m pyxen``."""

from __future__ import annotations

import sys

from pyxen.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
