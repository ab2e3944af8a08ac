# SPDX-License-Identifier: GPL-2.0-or-later
"""From a kernel file to a domain that is ready to run.

A kernel file passes through one module after the other:

- `bzimage` takes the compressed payload out of a Linux boot image, `payload` decompresses it;
- `elf` reads the ELF file that comes out, `notes` what the kernel tells Xen about itself;
- `image` joins these into `load_kernel`, with a cache of what was decompressed;
- `pv` lays a paravirtual domain's memory out and fills it;
- `symbols` finds the kernel's symbols, for a crash report.
"""
