# SPDX-License-Identifier: GPL-2.0-or-later
"""The back end of network cards."""
