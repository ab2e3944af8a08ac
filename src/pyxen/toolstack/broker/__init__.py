# SPDX-License-Identifier: GPL-2.0-or-later
"""The process beside that of a domain, which does for it what that may not do itself.

A guest that breaks out of the emulator has the domain's process. So that process gives up, before
the guest runs, to open files, to connect with others and to start programs (``sandbox.py``). What
it needs of this during its life it asks of its *broker*, a process that it has forked before and
that runs no guest and has none of its memory: to open a disk, to start passt, to connect with the
store, to rename the domain's folder. The broker passes open files.

It believes the domain's process nothing. It does what the configuration says with which the domain
was created, and what the domain's owner has permitted since then. The owner's tools tell it so by
``broker.sock`` in the domain's folder: a request that names something of the host (``permit``) goes
there first, and then to the domain's process.
"""
