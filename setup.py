# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiles the trap path, where that is possible; everything else is in pyproject.toml.

A module with a .pxd file beside it is compiled by Cython with the types in that file; the .py is
the same with and without. Where there is no C compiler, or no header of Python, pyxen is installed
without compiled parts and is slower.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCE = Path("src")
PROCESSORS = len(os.sched_getaffinity(0))
# Modules of the trap path whose plain form is fast enough once it is compiled.
UNTYPED = (
    "hypervisor/emulate/flags",
    "hypervisor/emulate/operands",
    "hypervisor/emulate/store",
)
DIRECTIVES = {
    "language_level": 3,
    "annotation_typing": False,  # "int" is any integer; C types stand in the .pxd files alone
    "boundscheck": True,  # a guest may put any frame number into its tables
    "wraparound": False,
    "initializedcheck": False,
}


def modules() -> list[Extension]:
    typed = [path.with_suffix("") for path in sorted((SOURCE / "pyxen").rglob("*.pxd"))]
    untyped = [SOURCE / "pyxen" / name for name in UNTYPED]
    sources = [path.with_suffix(".py") for path in typed + untyped]
    sources += sorted((SOURCE / "pyxen").rglob("*.pyx"))
    return [
        Extension(
            ".".join(path.relative_to(SOURCE).with_suffix("").parts),
            [str(path)],
            extra_compile_args=["-O2", "-g0", "-w"],
        )
        for path in sources
    ]


class OptionalBuild(build_ext):
    """All of them or none: compiled modules rely on each other's C types. Several at once."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or PROCESSORS

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:  # whatever a compiler may fail with
            print(f"pyxen: no compiled parts: {error}", file=sys.stderr)
            for extension in self.extensions:
                for built in (self.get_ext_fullpath(extension.name), self._in_place(extension)):
                    Path(built).unlink(missing_ok=True)
            self.extensions = []

    def _in_place(self, extension: Extension) -> Path:
        return SOURCE / self.get_ext_filename(extension.name)


setup(
    ext_modules=cythonize(
        modules(),
        compiler_directives=DIRECTIVES,
        build_dir="build",
        nthreads=PROCESSORS,
        quiet=True,
    ),
    cmdclass={"build_ext": OptionalBuild},
)
