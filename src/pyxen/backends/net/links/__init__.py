# SPDX-License-Identifier: GPL-2.0-or-later
"""What network cards can be connected to."""
