# SPDX-License-Identifier: GPL-2.0-or-later
"""What is raised when a domain cannot go on."""

from __future__ import annotations


class DomainCrash(Exception):
    """The guest did what Xen crashes a domain for; the message is the reason."""
