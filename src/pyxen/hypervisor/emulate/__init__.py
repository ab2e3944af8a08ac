# SPDX-License-Identifier: GPL-2.0-or-later
"""The few guest-kernel instructions that trap and that Xen carries out itself.

``store`` does the writes to read-only page-table pages (Xen's "ptwr"), ``privileged`` the
instructions that need ring 0. Both decode with iced-x86; ``operands`` and ``flags`` are what they
share.
"""
