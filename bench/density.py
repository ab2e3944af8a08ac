# SPDX-License-Identifier: GPL-2.0-or-later
"""What do twenty domains on one host take, and does one take more because others are there?

All are guests with Debian's cloud kernel, pyxen's initramfs and one CPU. 64 MiB of memory would
not do under any Xen, as the image of that kernel ends at 62 MiB, and 72 do not always: they have
80. One run is:

- *alone*: one domain, from `pyxen create` until user space. It also warms the caches.
- *create*: the others are created one after the other and left paused, so that none takes the
  processor from the next one's creation. Before each, as much memory as it will take is used and
  given back: where this machine is a virtual one, its host may give it a page only when that is
  used for the first time, which takes four times as long as to fill it. `create` returns when the
  domain is about to execute its first instruction, so its time is the time to that. The *growth* is
  that of the processor time which the command and the domain's process have taken by then, as that
  is less disturbed by what else runs: the median of the last five divided by that of the first
  five.
- *user space*: they are let go together; until the last one has reached user space.
- *consoles*: something is typed on each console; until the last one has answered.
- *one more*: another creation beside all of them, which are idle now.
- *first word*: the same with a tiny kernel, from the command to the first byte on its console: the
  guest's first hypercall.
- *memory*: of each domain's two processes, less the guest's own: all their mappings but that of the
  guest's memory, what several share counted in parts (PSS). *idle*: the processor time that each
  idle domain takes.
- *shutdown*: all are asked to power off; until the last one has gone.

The peer is as many processes of QEMU's emulator (machine `pc`) at once, with the same kernel, which
needs no decompression in the guest, and the same ramdisk; with 8 MiB more, which the kernel needs
there, and `no_timer_check`, as so many on few processors do not pass that check.
"""

from __future__ import annotations

import argparse
import mmap
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guests import (
    BenchError,
    Console,
    check_tools,
    circumstances,
    machine_line,
    parser,
    qemu,
    run_script,
    spread,
)
from pyxen import Domain
from pyxen.builder.image import load_kernel
from pyxen.testing import kernels
from pyxen.toolstack import images
from pyxen.toolstack.images import READY_MARKER, Image

PEER = "qemu pc"
PEER_MIB = 8
"""What the peer's guests have more."""
SMALL_KERNEL = Path(__file__).parent.parent / "guests" / "lifecycle" / "lifecycle.c"
CMDLINE = "quiet panic=-1"
GROUP = 5
"""So many creations are compared, the last with the first."""
GROWTH = 1.2
"""The largest growth that counts as none: the spread of single creations is wider."""
IDLE_SECONDS = 10.0
WAIT = 900.0
"""What all of them together may take for one step, in seconds."""


def main() -> int:
    options = parser("Measure many domains at once, under pyxen and under QEMU.")
    options.add_argument(
        "--domains", type=int, default=20, help="how many at once (default: %(default)s)"
    )
    options.add_argument(
        "--memory", type=int, default=80, help="of each, in MiB (default: %(default)s)"
    )
    options.set_defaults(image="debian-cloud", runs=1)
    return run_script(options.parse_args(), measure_all, table)


def measure_all(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    check_tools()
    image = images.find(arguments.image)
    os.environ["PYXEN_RUN"] = str(folder / "run")
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # as for those who have it installed
    runs = []
    for number in range(arguments.runs):
        ours = measure_pyxen(arguments, image)
        print(f"run {number + 1}/{arguments.runs}: pyxen: {ours}", file=sys.stderr)
        theirs = measure_qemu(arguments, image, folder)
        print(f"run {number + 1}/{arguments.runs}: {PEER}: {theirs}", file=sys.stderr)
        runs.append({"pyxen": ours, PEER: theirs})
    return summary(runs, arguments)


# pyxen


def measure_pyxen(arguments: argparse.Namespace, image: Image) -> dict[str, Any]:
    """One run; times in seconds, memory in KiB, `idle` in percent of a processor."""
    guest = {
        "image": image.name,
        "memory": str(arguments.memory),
        "cmdline": f"console=hvc0 {CMDLINE}",
    }
    with created("alone", guest) as alone:
        alone.domain.console.expect(re.escape(READY_MARKER), WAIT)
        seconds_alone = time.monotonic() - alone.begun

    with ExitStack() as stack:
        creations = []
        for number in range(arguments.domains):
            made = stack.enter_context(created(f"guest{number}", guest, "-p"))
            creations.append(made)
            print(f"create {number + 1}: {made.seconds:.2f} s", file=sys.stderr)
        domains = [made.domain for made in creations]

        start = time.monotonic()
        for domain in domains:
            domain.unpause()
        for domain in domains:
            domain.console.expect(re.escape(READY_MARKER), WAIT)
        user_space = time.monotonic() - start
        for domain in domains:
            domain.console.expect("# ", WAIT)  # its shell

        start = time.monotonic()
        for domain in domains:
            domain.console.send(f"echo I am $((1000 + {domain.domid}))\n")
        for domain in domains:
            domain.console.expect(f"I am {1000 + domain.domid}", WAIT)
        consoles = time.monotonic() - start

        pids = [domain.info().pid for domain in domains]
        before = list(map(processor_seconds, pids))
        time.sleep(IDLE_SECONDS)
        spent = [now - then for now, then in zip(map(processor_seconds, pids), before, strict=True)]
        memory = [own_memory(pid) + sum(map(own_memory, children(pid))) for pid in pids]

        with created("more", guest, "-p") as more:
            one_more = more.seconds
        first_words = [first_word() for _ in range(GROUP)]

        start = time.monotonic()
        done = pyxen("shutdown", "-a", "-w")
        shutdown = time.monotonic() - start
        asked = done.stderr.count("Shutting down domain")
        reasons = [domain.wait(WAIT) for domain in domains]
        if asked != len(domains) or set(reasons) != {"poweroff"}:
            raise BenchError(f"shutdown: not all have powered off: {done.stderr}{reasons}")
    return {
        "alone": seconds_alone,
        "create": [made.seconds for made in creations],
        "create, processor": [made.processor for made in creations],
        "one more": one_more,
        "first word": first_words,
        "user space": user_space,
        "consoles": consoles,
        "memory": memory,
        "idle": [100 * seconds / IDLE_SECONDS for seconds in spent],
        "shutdown": shutdown,
    }


def pyxen(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that must work. Raises BenchError."""
    done = subprocess.run(
        [sys.executable, "-m", "pyxen", *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=WAIT,
    )  # fmt: skip
    if done.returncode:
        raise BenchError(f"pyxen {arguments[0]}: {done.stderr}")
    return done


@dataclass(frozen=True)
class Created:
    """A domain, when its creation began, and what that took of time and of the processor."""

    domain: Domain
    begun: float
    seconds: float
    processor: float


@contextmanager
def created(name: str, guest: dict[str, str], *options: str) -> Iterator[Created]:
    """A domain made by the command, which is destroyed at the end."""
    settings = [f"{key}={value!r}" for key, value in {**guest, "name": name}.items()]
    use_memory(2 * int(guest["memory"]))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    pyxen("create", "-q", *options, "/dev/null", *settings)
    seconds = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    domain = Domain.connect(name)
    processor += processor_seconds(domain.info().pid)
    try:
        yield Created(domain, begun, seconds, processor)
    finally:
        domain.destroy()
        domain.close()


def use_memory(mib: int) -> None:
    """So that the host of this machine, if it has one, gives it that much."""
    with mmap.mmap(-1, mib << 20) as memory:
        memory[:] = bytes(len(memory))


def first_word() -> float:
    """Seconds from `pyxen create` until a tiny kernel's first byte."""
    log = Path(os.environ["XDG_STATE_HOME"]) / "pyxen" / "tiny-console.log"
    log.unlink(missing_ok=True)
    settings = [f"kernel='{kernels.build_kernel(SMALL_KERNEL)}'", "memory=8", "name='tiny'"]
    begun = time.monotonic()
    command = [sys.executable, "-m", "pyxen", "create", "-q", "/dev/null", *settings]
    process = subprocess.Popen(command)
    while not (log.exists() and log.stat().st_size):
        if process.poll() or time.monotonic() > begun + WAIT:
            raise BenchError("the tiny kernel does not begin")
        time.sleep(0.001)
    seconds = time.monotonic() - begun
    process.wait(WAIT)
    pyxen("destroy", "tiny")
    return seconds


# QEMU


def measure_qemu(arguments: argparse.Namespace, image: Image, folder: Path) -> dict[str, Any]:
    """As many of QEMU's: until user space, and memory."""
    vmlinux = folder / "vmlinux"
    vmlinux.write_bytes(load_kernel(image.kernel).elf.data)
    mib = arguments.memory + PEER_MIB
    command = qemu("pc", vmlinux, image.ramdisk, f"{CMDLINE} no_timer_check").command
    command[command.index("-m") + 1] = str(mib)
    # Its guest's memory is a file without a name, as ours is: so it can be told from the rest.
    command += ["-object", f"memory-backend-memfd,id=ram,size={mib}M"]
    command[command.index("pc")] = "pc,memory-backend=ram"
    start = time.monotonic()
    with ExitStack() as stack:
        processes = []
        for _ in range(arguments.domains):
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            processes.append(process)
        for process in processes:
            assert process.stdout is not None
            console = Console(process.stdout.fileno())
            try:
                console.wait_for(READY_MARKER, start + WAIT)
            except BenchError as error:
                raise BenchError(
                    f"{PEER}: {error}; its last output:\n{console.text[-1000:]}"
                ) from None
        user_space = time.monotonic() - start
        time.sleep(IDLE_SECONDS)
        return {
            "user space": user_space,
            "memory": [own_memory(process.pid) for process in processes],
        }


# What a process takes


def own_memory(pid: int) -> int:
    """KiB of a process but for its guest's memory; what it shares counts in parts."""
    total, counts = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split(maxsplit=5)
        if not words[0].endswith(":"):  # the beginning of a mapping
            counts = len(words) < 6 or not words[5].startswith("/memfd:")
        elif words[0] == "Pss:" and counts:
            total += int(words[1])
    return total


def children(pid: int) -> list[int]:
    """The broker of a domain's process."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Figures


def growth(creations: list[float]) -> float:
    return statistics.median(creations[-GROUP:]) / statistics.median(creations[:GROUP])


def summary(runs: list[dict[str, Any]], arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures as data for JSON, and ratios of medians."""
    ratios = {
        measure: statistics.median(median(run["pyxen"][measure]) for run in runs)
        / statistics.median(median(run[PEER][measure]) for run in runs)
        for measure in ("user space", "memory")
    }
    grown = statistics.median(growth(run["pyxen"]["create, processor"]) for run in runs)
    return {
        **circumstances(arguments),
        "memory_mib": arguments.memory,
        "domains": arguments.domains,
        "cpus": os.cpu_count(),
        "figures": runs,
        "ratios": ratios,
        "growth": grown,
        "target": {"growth_at_most": GROWTH, "reached": grown <= GROWTH},
    }


def median(figure: list[float] | float) -> float:
    return statistics.median(figure) if isinstance(figure, list) else figure


def table(result: dict[str, Any]) -> str:
    """The figures for people, from what `summary` returns."""

    def values(who: str, measure: str, scale: float = 1.0) -> list[float]:
        found: list[float] = []
        for run in result["figures"]:
            figure = run[who][measure]
            found += figure if isinstance(figure, list) else [figure]
        return [value * scale for value in found]

    lines = [
        "",
        machine_line(result),
        f"image {result['image']}, {result['domains']} guests at once, 1 CPU and "
        f"{result['memory_mib']} MiB each, on {result['cpus']} CPUs; "
        f"median (lowest-highest), {result['runs']} runs",
        "",
    ]
    mib = 1 / 1024
    rows = (
        ("create, s", values("pyxen", "create"), 2),
        ("  of the processor, s", values("pyxen", "create, processor"), 2),
        ("one more beside all, s", values("pyxen", "one more"), 2),
        ("tiny kernel's first word, s", values("pyxen", "first word"), 2),
        ("one alone to user space, s", values("pyxen", "alone"), 1),
        ("all to user space, s", values("pyxen", "user space"), 1),
        (f"  {PEER}", values(PEER, "user space"), 1),
        ("all consoles answer, s", values("pyxen", "consoles"), 2),
        ("memory beyond the guest's, MiB", values("pyxen", "memory", mib), 1),
        (f"  {PEER}", values(PEER, "memory", mib), 1),
        ("idle, % of a CPU", values("pyxen", "idle"), 2),
        ("all shut down, s", values("pyxen", "shutdown"), 1),
    )
    lines += [f"{name:<34}{spread(figures, decimals):>30}" for name, figures, decimals in rows]
    reached = "reached" if result["target"]["reached"] else "missed"
    lines += [
        "",
        f"ratios to {PEER}: user space {result['ratios']['user space']:.2f}, "
        f"memory {result['ratios']['memory']:.2f}",
        f"create, processor time, last {GROUP} to first {GROUP}: {result['growth']:.2f} "
        f"(target: at most {GROWTH}, {reached})",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
