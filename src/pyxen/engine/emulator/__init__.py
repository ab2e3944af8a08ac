# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulator engine: unicorn (QEMU's TCG as a library). All knowledge of its inside is here."""
