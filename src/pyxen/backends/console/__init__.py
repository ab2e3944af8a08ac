# SPDX-License-Identifier: GPL-2.0-or-later
"""Consoles: the rings, what becomes of their output, and the back ends."""
