# SPDX-License-Identifier: GPL-2.0-or-later
"""The dom0 side of paravirtual devices.

A back end knows only what a dom0 process has: pages that it was given, event-channel ports and a
xenstore client. None of them takes a domain object.
"""
