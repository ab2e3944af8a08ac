# SPDX-License-Identifier: GPL-2.0-or-later
"""What xl does: the life cycle of domains, and the guests that can be fetched."""
