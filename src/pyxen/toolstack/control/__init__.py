# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket of a domain's process.

Whoever owns the domain connects to ``control.sock`` in its folder, and sends requests: one JSON
object a line, ``{"request": "pause"}``, with the request's fields beside its name. Each is answered
in its turn by a line, ``{"answer": {...}}`` or ``{"error": "one line"}``. After ``subscribe`` lines
with events come as well: ``{"event": {...}}``. Both sides work with the types of
``messages.py`` only.
"""
