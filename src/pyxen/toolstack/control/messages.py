# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said on a control socket: requests, their answers, events. Plain data.

A request is a ``Request`` of the type of its answer. Its name on the wire is that of the class,
``SetVcpus`` as ``set-vcpus``.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final, Generic, TypeVar

from msgspec import Struct, field

Answer = TypeVar("Answer")

LINE_LIMIT: Final = 1 << 20
"""No message is longer."""
SHUTDOWN_SECONDS: Final = 60.0
"""So long libxl waits for a guest to acknowledge a request."""
DETACH_SECONDS: Final = 10.0
"""So long for a front end to close."""


class Message(Struct, frozen=True, forbid_unknown_fields=True):
    """The base of all that is said. A field that it does not have is refused."""


# Answers


class Done(Message, frozen=True):
    """It is done, and there is nothing to tell."""


class VcpuInfo(Message, frozen=True):
    """A vCPU. ``cpu_ns`` is how long it has run, and the next three are its further run states;
    ``cpu`` is the host's processor on which it ran last, the affinities are masks of those, 0 for
    all."""

    index: int
    online: bool
    running: bool
    blocked: bool
    cpu_ns: int
    runnable_ns: int = 0
    blocked_ns: int = 0
    offline_ns: int = 0
    cpu: int = 0
    hard_affinity: int = 0
    soft_affinity: int = 0

    @property
    def stolen_ns(self) -> int:
        """What Linux takes for stolen: it would have run, or its domain was paused."""
        return self.runnable_ns + self.offline_ns


class DomainInfo(Message, frozen=True):
    """A domain as ``xl list`` knows it. ``shutdown_reason`` is empty until it has shut down;
    ``started`` is seconds since 1970. ``weight`` and ``cap`` are those of the scheduler."""

    domid: int
    name: str
    uuid: str
    pid: int
    started: float
    memory_kib: int
    max_memory_kib: int
    paused: bool
    shutdown_reason: str
    vcpus: tuple[VcpuInfo, ...]
    weight: int = 256
    cap: int = 0

    @property
    def online(self) -> int:
        """How many vCPUs are."""
        return sum(vcpu.online for vcpu in self.vcpus)

    @property
    def running(self) -> bool:
        return any(vcpu.running for vcpu in self.vcpus)

    @property
    def blocked(self) -> bool:
        """Whether none can run."""
        online = [vcpu for vcpu in self.vcpus if vcpu.online]
        return bool(online) and all(vcpu.blocked for vcpu in online)

    @property
    def cpu_ns(self) -> int:
        return sum(vcpu.cpu_ns for vcpu in self.vcpus)


class Configuration(Message, frozen=True):
    """In libxl's shape."""

    config: dict[str, Any]


class Figures(Message, frozen=True):
    """Counters, by the names that ``pyxen run --stats-json`` gives them."""

    figures: dict[str, Any]


class Attached(Message, frozen=True):
    """A device was added, under this number."""

    devid: int


class DeviceInfo(Message, frozen=True):
    """A device. ``state`` is that of its front end."""

    kind: str
    devid: int
    backend_path: str
    frontend: dict[str, str] = field(default_factory=dict)
    """The nodes of its front end. The guest writes some of them."""

    @property
    def state(self) -> int:
        return self.number("state")

    def number(self, node: str) -> int:
        """What it has told, a number of up to nine digits; -1 if it has not."""
        text = self.frontend.get(node, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


class DeviceList(Message, frozen=True):
    """In the order of their numbers."""

    devices: tuple[DeviceInfo, ...]


# Requests


def wire_name(request: str) -> str:
    """The name on the wire of the request of a class with this name."""
    return re.sub(r"(?<!^)([A-Z])", r"-\1", request).lower()


class Request(Message, Generic[Answer], frozen=True, tag_field="request", tag=wire_name):
    """The base of all requests; ``answer`` is the type of the answer. ``permit`` says that it names
    something of the host: then it is first told to the domain's broker (``toolstack/broker``)."""

    answer: ClassVar[type[Any]]
    permit: ClassVar[bool] = False


class GetInfo(Request[DomainInfo], frozen=True):
    answer = DomainInfo


class GetStatistics(Request[Figures], frozen=True):
    answer = Figures


class GetConfig(Request[Configuration], frozen=True):
    answer = Configuration


class Pause(Request[Done], frozen=True):
    answer = Done


class Unpause(Request[Done], frozen=True):
    answer = Done


class Destroy(Request[Done], frozen=True):
    """End it, whatever it does. The answer comes before the end: wait for its folder to go."""

    answer = Done


class Shutdown(Request[Done], frozen=True):
    """Ask the guest for a ``poweroff`` or ``reboot``; answered when it has acknowledged."""

    action: str
    seconds: float = SHUTDOWN_SECONDS
    answer = Done


class Sysrq(Request[Done], frozen=True):
    key: str
    answer = Done


class Trigger(Request[Done], frozen=True):
    """Only ``nmi`` is for PV guests."""

    trigger: str
    vcpu: int = 0
    answer = Done


class DebugKey(Request[Done], frozen=True):
    """Dump what this debug key stands for into the hypervisor's messages."""

    key: str
    answer = Done


class DumpCore(Request[Done], frozen=True):
    """Write a core dump to this file, an absolute path."""

    path: str
    permit = True
    answer = Done


class Rename(Request[Done], frozen=True):
    name: str
    answer = Done


class UpdateConfig(Request[Done], frozen=True):
    """The configuration, in libxl's shape, that the next restart goes by."""

    config: dict[str, Any]
    permit = True
    answer = Done


class SetVcpus(Request[Done], frozen=True):
    """So many vCPUs are to be online; the guest does it when it likes."""

    count: int
    answer = Done


class SetScheduling(Request[Done], frozen=True):
    """The share of the host's processors, and what of one may be used at most, in percent (0: all).
    None leaves it as it is."""

    weight: int | None = None
    cap: int | None = None
    answer = Done


class SetAffinity(Request[Done], frozen=True):
    """The host's processors on which a vCPU may run, and those that it prefers, as masks (0: all);
    None leaves it as it is, and is all vCPUs."""

    vcpu: int | None
    hard: int | None = None
    soft: int | None = None
    answer = Done


class SetMemory(Request[Done], frozen=True):
    """The target of the guest's balloon."""

    kib: int
    answer = Done


class SetMaxMemory(Request[Done], frozen=True):
    """What the balloon may grow to."""

    kib: int
    answer = Done


class AttachDisk(Request[Attached], frozen=True):
    """In xl's syntax."""

    spec: str
    permit = True
    answer = Attached


class DetachDisk(Request[Done], frozen=True):
    vdev: str
    force: bool = False
    seconds: float = DETACH_SECONDS
    answer = Done


class AttachNic(Request[Attached], frozen=True):
    """In xl's syntax."""

    spec: str
    permit = True
    answer = Attached


class DetachNic(Request[Done], frozen=True):
    """By number, or by address."""

    device: str
    seconds: float = DETACH_SECONDS
    answer = Done


class ListDevices(Request[DeviceList], frozen=True):
    """Those of a kind: ``vbd``, ``vif``, ``console``."""

    kind: str
    answer = DeviceList


class Subscribe(Request[Done], frozen=True):
    """From now on events are sent on this connection, as well as answers."""

    answer = Done


# Events


class Event(Message, frozen=True):
    """``shutdown`` (``reason`` says how it ended), ``restarted`` (with the new ``domid``)."""

    event: str
    domid: int
    reason: str = ""


REQUESTS: Final = {wire_name(each.__name__): each for each in Request.__subclasses__()}
PERMITS: Final = {name: request for name, request in REQUESTS.items() if request.permit}
BROKER_SOCKET: Final = "broker.sock"
"""Where these are told."""
