# SPDX-License-Identifier: GPL-2.0-or-later
"""Configurations of domains: xl.cfg, its options, and the same as JSON.

``DomainConfig`` is what all of the tool stack works with. ``read_file`` and ``read_text`` make one
of xl.cfg, ``format_config`` prints one, ``to_json`` and ``from_json`` are libxl's shape.
"""

from __future__ import annotations

from pyxen.toolstack.config.domain import DomainConfig
from pyxen.toolstack.config.json_form import from_json, to_json
from pyxen.toolstack.config.reader import Reading, read_file, read_text
from pyxen.toolstack.config.writer import format_config

__all__ = [
    "DomainConfig",
    "Reading",
    "format_config",
    "from_json",
    "read_file",
    "read_text",
    "to_json",
]
