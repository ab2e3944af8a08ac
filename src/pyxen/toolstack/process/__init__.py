# SPDX-License-Identifier: GPL-2.0-or-later
"""The process in which a domain lives: ``python -m pyxen.toolstack.process``, see ``create.py``."""
