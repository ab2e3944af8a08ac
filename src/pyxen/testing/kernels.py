# SPDX-License-Identifier: GPL-2.0-or-later
"""Small PV kernels for tests: built by gcc from C and assembly, run to their end in this process.

For people who write Xen kernels, or want to know what Xen's interface does. A kernel is one or more
``.c`` or ``.S`` files with a function ``kernel_main``; a runtime of a few hundred lines
(``runtime/`` beside this file) gives it a start, trap handlers, hypercalls, a console and helpers
for page tables, user mode and more vCPUs: see ``runtime/runtime.h``. Its interface definitions are
Xen's own public headers, which Debian has in ``libxen-dev``. The result is an ordinary ELF kernel,
which Xen's tool stack takes as well; on Xen itself its messages show if that was built with
``CONFIG_DEBUG``, as it prints by ``console_io``.

    >>> from pathlib import Path
    >>> from pyxen.testing.kernels import build_kernel, run_kernel
    >>> source = Path("hello.c")
    >>> _ = source.write_text('''
    ... #include "runtime.h"
    ... void kernel_main(void)
    ... {
    ...     printk("hello from %s\\\\n", start_info->magic);
    ...     shutdown(SHUTDOWN_poweroff);
    ... }
    ... ''')
    >>> result = run_kernel(build_kernel(source))
    >>> result.lines
    ['hello from xen-3.0-x86_64']
    >>> result.exit_reason, result.code
    ('poweroff', 0)

A build takes some 50 ms and is kept by the hash of all that went into it; a run takes about as
long. Nothing is shared between two runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Final

from msgspec import Struct

from pyxen.abi.grant_table import GNTTAB_RESERVED_CONSOLE
from pyxen.backends.console.ring import ConsoleRing
from pyxen.builder.image import load_kernel
from pyxen.engine.protocol import EngineError
from pyxen.errors import PyxenError
from pyxen.hypervisor.crash import DomainCrash
from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.instruments import Statistics
from pyxen.toolstack.config import DomainConfig
from pyxen.toolstack.lifecycle import Built, build_domain, make_domain, make_engine

RUNTIME: Final = Path(__file__).parent / "runtime"
"""The folder of ``runtime.h`` and what belongs to it."""

_RUNTIME_SOURCES: Final = (RUNTIME / "start.S", RUNTIME / "runtime.c")
_LINKER_SCRIPT: Final = RUNTIME / "kernel.lds"
_COMPILE: Final = (
    "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-clobbered",
    "-ffreestanding", "-fno-pic", "-fno-pie", "-mno-red-zone", "-mcmodel=kernel",
    "-mgeneral-regs-only", "-fno-stack-protector", "-fcf-protection=none",
    "-fno-asynchronous-unwind-tables", "-fno-strict-aliasing",
)  # fmt: skip
_LINK: Final = ("-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,-z,norelro")


class BuildToolsMissing(PyxenError):
    """This machine cannot build kernels; the message says what is missing."""


class KernelResult(Struct, frozen=True):
    """How a run ended.

    ``exit_reason`` is the name of a shutdown reason of Xen's ("poweroff", "reboot", "crash" …), or
    "timeout". ``code`` is the number that the kernel gave to SCHEDOP_shutdown; None if it did not.
    ``crash`` is why the hypervisor crashed the domain, None if it did not. ``output`` is what went
    to the console. ``audit`` lists what is wrong in the hypervisor's own books: always empty, or
    pyxen has a bug. ``seconds`` is the time of the run alone.
    """

    exit_reason: str
    code: int | None
    crash: str | None
    output: str
    audit: tuple[str, ...]
    statistics: Statistics
    seconds: float

    @property
    def lines(self) -> list[str]:
        """The output's lines."""
        return self.output.splitlines()


# Building


def check_build_tools(compiler: str = "gcc") -> None:
    """Raises BuildToolsMissing if there is no C compiler or there are no public headers of Xen."""
    _identify(compiler)


def build_kernel(
    *sources: Path, defines: Sequence[str] = (), compiler: str = "gcc", cache: Path | None = None
) -> Path:
    """Compile and link a kernel. Returns the ELF file, which lies in the cache.

    Args:
        sources: C files and assembler files (``.S``). They find ``runtime.h``, ``<xen/…>``, and
            headers in their own folders.
        defines: macros, as ``"NAME"`` or ``"NAME=VALUE"``.
        compiler: gcc or a compiler that takes its options.
        cache: the folder for what has been built, by default one in the user's cache folder.

    Raises BuildToolsMissing, or PyxenError with the compiler's message.
    """
    identity = _identify(compiler)
    folder = _default_cache() if cache is None else cache
    options = [*_COMPILE, *(f"-D{define}" for define in defines)]
    objects = [
        *(
            _compile(source, compiler, identity, list(_COMPILE), folder)
            for source in _RUNTIME_SOURCES
        ),
        *(_compile(source, compiler, identity, options, folder) for source in sources),
    ]
    name = _digest(_LINKER_SCRIPT.read_bytes(), *(each.name.encode() for each in objects))
    command = [compiler, *_LINK, f"-Wl,-T,{_LINKER_SCRIPT}", "-Wl,--no-warn-rwx-segments"]
    return _make(folder / f"{name}.elf", [*command, *map(str, objects)])


def _compile(source: Path, compiler: str, identity: str, options: list[str], folder: Path) -> Path:
    try:
        content = source.read_bytes()
    except OSError as error:
        raise PyxenError(f"{source}: cannot read the source: {error.strerror}") from None
    headers = sorted({*source.parent.glob("*.h"), *RUNTIME.glob("*.h")})
    parts = (source.name, identity, *options)
    name = _digest(
        *(part.encode() for part in parts), content, *(header.read_bytes() for header in headers)
    )
    # Messages and __FILE__ show the file's name alone: a build does not depend on where it lies.
    prefix = f"-fmacro-prefix-map={source.parent}/="
    command = [compiler, *options, prefix, f"-I{RUNTIME}", "-c", str(source)]
    return _make(folder / f"{name}.o", command)


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:32]


def _make(target: Path, command: list[str]) -> Path:
    """Run a command that writes a file, if that is not there. It appears whole or not at all."""
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as folder:
        made = Path(folder) / target.name
        done = subprocess.run(
            [*command, "-o", str(made)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PyxenError(f"the kernel cannot be built:\n{done.stderr.rstrip()}")
        os.replace(made, target)
    return target


@cache
def _identify(compiler: str) -> str:
    """The compiler's version, after a look whether it can build kernels."""
    if shutil.which(compiler) is None:
        raise BuildToolsMissing(f"no {compiler}: small kernels need a C compiler")
    probe = subprocess.run(
        [compiler, "-E", "-x", "c", "-"],
        input="#include <xen/xen.h>\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if probe.returncode:
        raise BuildToolsMissing(
            "no <xen/xen.h>: small kernels need Xen's public headers (Debian: libxen-dev)"
        )
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return version.stdout


def _default_cache() -> Path:
    folder = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(folder) if folder.startswith("/") else Path(os.path.expanduser("~/.cache"))
    return base / "pyxen" / "testing"


# Running


class PreparedKernel:
    """A domain that is built and has not begun: see ``prepare_kernel``."""

    def __init__(self, domain: Domain, output: bytearray) -> None:
        self.domain = domain
        self._output = output

    def run(self, timeout: float = 10.0) -> KernelResult:
        """Run it to its end, at most so many seconds. To be called once."""
        domain = self.domain
        timer = threading.Timer(timeout, lambda: domain.post(lambda: domain.stop("timeout")))
        timer.start()
        start = perf_counter()
        crash = None
        try:
            reason = domain.run()
        except (DomainCrash, EngineError) as error:
            reason, crash = "crash", str(error)
        finally:
            timer.cancel()
            timer.join()
        return KernelResult(
            exit_reason=reason,
            code=domain.shutdown_code,
            crash=crash,
            output=self._output.decode("utf-8", "replace"),
            audit=tuple(domain.audit()),
            statistics=domain.statistics(),
            seconds=perf_counter() - start,
        )


@contextmanager
def prepare_kernel(
    kernel: Path, *, memory_mib: int = 8, vcpus: int = 1, command_line: str = ""
) -> Iterator[PreparedKernel]:
    """Build a domain with a kernel, for a look at it before and after ``run``.

    What ``domain`` offers is the hypervisor's own state, which changes between versions. Raises
    PyxenError for a kernel that cannot run.
    """
    config = DomainConfig(
        kernel=kernel, command_line=command_line, memory_mib=memory_mib, vcpus=vcpus
    )
    image = load_kernel(kernel)
    output = bytearray()
    engine = make_engine(config)
    try:
        domain = make_domain(engine, config, output=output.extend)
        try:
            built = build_domain(domain, image, config, with_store=False)
            _connect_console(domain, built, output.extend)
            yield PreparedKernel(domain, output)
        finally:
            domain.close()
    finally:
        engine.close()


def _connect_console(domain: Domain, built: Built, output: Callable[[bytes], None]) -> None:
    """There is no store by which a back end would find it."""
    port = domain.events.bind_back_end(built.nodes.console_port)
    page = built.grants.map(GNTTAB_RESERVED_CONSOLE).page
    port.listen(ConsoleRing(page, port.send, output).on_event)


def run_kernel(
    kernel: Path,
    *,
    memory_mib: int = 8,
    vcpus: int = 1,
    command_line: str = "",
    timeout: float = 10.0,
) -> KernelResult:
    """Run a kernel to its end, at most ``timeout`` seconds, in a domain of its own.

    Whatever the kernel does, this returns: a domain that crashes is a result. Raises PyxenError
    for a kernel that cannot run, such as one for which the memory is too small.
    """
    with prepare_kernel(
        kernel, memory_mib=memory_mib, vcpus=vcpus, command_line=command_line
    ) as prepared:
        return prepared.run(timeout)
