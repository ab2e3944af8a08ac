# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process that is shut in must not be able to do, and what it must: each tried by a process
of its own, shut in or free. A program: it prints what came of all of them, as JSON."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import functools
import importlib
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pyxen.toolstack import sandbox

HERE = Path(sys.argv[1] if len(sys.argv) > 1 else "/nowhere")
OWN = HERE / "own"
PARENT = os.getpid()
DONE = "done"
world: dict[str, int] = {}
"""A port at which somebody listens, and an open file."""
libc = ctypes.CDLL(None, use_errno=True)


def call(number: int, *arguments: object) -> int:
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result: int = libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def listening(family: int, address: object) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen()
    return listener


def connect(family: int, kind: int, address: object) -> None:
    with socket.socket(family, kind) as client:
        client.connect(address)


def fork() -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)


def fork_by_clone3() -> None:
    arguments = struct.pack("11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0)
    if not call(435, arguments, len(arguments)):
        os._exit(0)


def start_program() -> None:
    subprocess.run(["/bin/true"], check=True)


def datagram() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", str(HERE / "datagrams"))


def send_a_signal() -> None:
    os.kill(PARENT, 0)


def read_memory_of_another() -> None:
    Path(f"/proc/{PARENT}/mem").open("rb").close()


def regain_limits() -> None:
    try:
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (4096, 4096))
    except ValueError:  # Python's way to say EPERM
        raise PermissionError(errno.EPERM, "") from None


def copy_memory_of_another() -> None:
    buffer = ctypes.create_string_buffer(8)
    local = struct.pack("2Q", ctypes.addressof(buffer), 8)
    call(310, PARENT, local, 1, struct.pack("2Q", id(call), 8), 1, 0)


FORBIDDEN: dict[str, Callable[[], object]] = {
    "fork": fork,
    "fork by clone3": fork_by_clone3,
    "start a program": start_program,
    "become a program": lambda: os.execv("/bin/true", ["true"]),
    "read a file": (HERE / "secret").read_bytes,
    "read the users": lambda: Path("/etc/passwd").read_bytes(),
    "list a folder": lambda: os.listdir(HERE),
    "write to a file": lambda: (HERE / "secret").open("ab").close(),
    "make a file": lambda: (HERE / f"new-{os.getpid()}").write_bytes(b""),
    "make a file in the own folder": lambda: (OWN / f"new-{os.getpid()}").write_bytes(b""),
    "make a folder": (HERE / "new").mkdir,
    "make a link": lambda: (HERE / f"link-{os.getpid()}").symlink_to("/"),
    "remove a file": (HERE / "removed").unlink,
    "rename a file": lambda: (HERE / "renamed").rename(HERE / "other"),
    "truncate a file": lambda: os.truncate(HERE / "secret", 0),
    "change the mode of a file": lambda: (HERE / "secret").chmod(0o600),
    "change the owner of a file": lambda: os.chown(HERE / "secret", -1, -1),
    "change the time of a file": lambda: os.utime(HERE / "secret"),
    "connect with a socket": lambda: connect(
        socket.AF_UNIX, socket.SOCK_STREAM, str(HERE / "listener")
    ),
    "connect with an abstract socket": lambda: connect(
        socket.AF_UNIX, socket.SOCK_STREAM, f"\0pyxen-test-{PARENT}"
    ),
    "send a datagram": datagram,
    "connect by TCP": lambda: connect(
        socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", world["port"])
    ),
    "listen by TCP": lambda: listening(socket.AF_INET, ("127.0.0.1", 0)),
    "send by UDP": lambda: connect(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 9)),
    "ask the kernel's network": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "send a signal": send_a_signal,
    "open another process": lambda: os.pidfd_open(PARENT),
    "read another's memory": read_memory_of_another,
    "copy another's memory": copy_memory_of_another,
    "bind another to a processor": lambda: os.sched_setaffinity(
        PARENT, os.sched_getaffinity(PARENT)
    ),
    "change another's limits": lambda: resource.prlimit(PARENT, resource.RLIMIT_CORE, (0, 0)),
    "change identity": lambda: os.setresuid(os.getuid(), os.getuid(), os.getuid()),
    "change priority": lambda: os.nice(1),
    "change folder": lambda: os.chdir("/"),
}
"""Each of them works when it is free."""

CALLS = {
    "ptrace": 101,
    "personality": 135,
    "pivot_root": 155,
    "chroot": 161,
    "mount": 165,
    "umount2": 166,
    "init_module": 175,
    "delete_module": 176,
    "add_key": 248,
    "keyctl": 250,
    "mknodat": 259,
    "unshare": 272,
    "perf_event_open": 298,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    "setns": 308,
    "process_vm_writev": 311,
    "finit_module": 313,
    "seccomp": 317,
    "bpf": 321,
    "execveat": 322,
    "userfaultfd": 323,
    "pidfd_send_signal": 424,
    "io_uring_setup": 425,
    "open_tree": 428,
    "openat2": 437,
    "pidfd_getfd": 438,
}
"""System calls that are tried by a process that is shut in alone: for it there are none."""
if os.geteuid() == 0:
    FORBIDDEN["regain limits"] = regain_limits


def a_thread() -> None:
    worked = threading.Event()
    threading.Thread(target=worked.set).start()
    assert worked.wait(20)


def a_socket_of_its_own() -> None:
    path = OWN / f"socket-{os.getpid()}"
    listening(socket.AF_UNIX, str(path)).close()
    path.unlink()


def a_loop() -> None:
    async def work() -> None:
        await asyncio.to_thread(time.sleep, 0)

    asyncio.run(work())


def a_callback() -> None:
    kind = ctypes.CFUNCTYPE(ctypes.c_int)
    assert kind(lambda: 7)() == 7


def memory() -> None:
    file = os.memfd_create("test")
    os.ftruncate(file, 4096)


def a_signal_to_itself() -> None:
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    signal.raise_signal(signal.SIGUSR1)


def a_passed_file() -> None:
    assert os.pwrite(world["passed"], b"x", 0) == 1
    os.fsync(world["passed"])


PERMITTED: dict[str, Callable[[], object]] = {
    "a thread": a_thread,
    "a module that is loaded late": lambda: importlib.import_module("wave"),
    "a compiled module": lambda: importlib.import_module("_decimal"),
    "a socket of its own": a_socket_of_its_own,
    "a pair of sockets": socket.socketpair,
    "a loop": a_loop,
    "a callback from C": a_callback,
    "memory with a name": memory,
    "a signal to itself": a_signal_to_itself,
    "an open file": a_passed_file,
    "the time": lambda: time.strftime("%H:%M"),
    "randomness": lambda: os.urandom(8),
    "a device without content": lambda: Path("/dev/null").read_bytes(),
    "a processor": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
    "what it uses": lambda: Path("/proc/self/statm").read_text(),
}


def attempt(work: Callable[[], object], shut_in: bool) -> str:
    """What comes of it, in another process: "done", or the name of an error."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        said = DONE
        try:
            if shut_in:
                sandbox.enter(os.open(OWN, os.O_PATH), 64)
            work()
        except OSError as error:
            said = errno.errorcode.get(error.errno or 0, str(error))
        except BaseException as error:
            said = repr(error)
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    return said or (DONE if not status else f"it ended with {status}")


def main() -> None:
    for name in ("secret", "removed", "renamed", "passed"):
        (HERE / name).write_text("it is")
    OWN.mkdir(exist_ok=True)
    world["passed"] = os.open(HERE / "passed", os.O_RDWR)
    tcp = listening(socket.AF_INET, ("127.0.0.1", 0))
    world["port"] = tcp.getsockname()[1]
    kept = [tcp, listening(socket.AF_UNIX, str(HERE / "listener"))]
    kept.append(listening(socket.AF_UNIX, f"\0pyxen-test-{PARENT}"))
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagrams.bind(str(HERE / "datagrams"))
    both = {**FORBIDDEN, **PERMITTED}
    shut_in = {name: attempt(work, True) for name, work in both.items()}
    free = {name: attempt(work, False) for name, work in both.items()}
    for name, number in CALLS.items():
        shut_in[name] = attempt(functools.partial(call, number, 0, 0, 0, 0, 0), True)
    print(json.dumps({"shut in": shut_in, "free": free}))


if __name__ == "__main__":
    main()
