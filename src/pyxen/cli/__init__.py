# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: one file per verb; prints and parses, decides nothing."""
