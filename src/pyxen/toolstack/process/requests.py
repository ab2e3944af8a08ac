# SPDX-License-Identifier: GPL-2.0-or-later
"""What is asked of a domain by its control socket, and how that is done.

Requests come in the I/O thread; all that touches the domain is done by the thread of the vCPUs.
What xl does through the hypervisor is a call of ours; what it asks of the guest goes through the
store, as there: the guest's kernel watches ``control/shutdown``, ``control/sysrq``,
``memory/target`` and ``cpu/N/availability``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec.structs import replace

from pyxen.abi.vcpu import RUNSTATE_running
from pyxen.errors import PyxenError
from pyxen.hypervisor.keyhandler import HANDLERS
from pyxen.hypervisor.run_queue import ALL
from pyxen.hypervisor.vcpu import Vcpu
from pyxen.toolstack.config import from_json, to_json
from pyxen.toolstack.config.domain import MAX_WEIGHT
from pyxen.toolstack.config.reader import check_name
from pyxen.toolstack.control import messages
from pyxen.toolstack.control.messages import (
    Attached,
    Configuration,
    DeviceInfo,
    DeviceList,
    DomainInfo,
    Done,
    Figures,
    Request,
    VcpuInfo,
)
from pyxen.toolstack.devices.disk import parse_disk, virtual_device_number
from pyxen.toolstack.devices.live import DISK, NIC
from pyxen.toolstack.devices.nic import parse_nic
from pyxen.toolstack.running import RunningDomain
from pyxen.xenstore.error import StoreError

if TYPE_CHECKING:
    from pyxen.toolstack.process.domain_process import DomainProcess

_KIB_PER_PAGE: Final = 4
_KIB_PER_MIB: Final = 1024
_SHUTDOWN_ACTIONS: Final = ("poweroff", "reboot", "halt")

Result = TypeVar("Result")


class Requests:
    """The requests to one domain's process."""

    def __init__(self, process: DomainProcess) -> None:
        self._process = process
        self._handlers: dict[type[Request[Any]], Callable[[Any], Awaitable[Any]]] = {
            messages.GetInfo: self._get_info,
            messages.GetStatistics: self._get_statistics,
            messages.GetConfig: self._get_config,
            messages.Pause: self._pause,
            messages.Unpause: self._unpause,
            messages.Destroy: self._destroy,
            messages.Shutdown: self._shut_down,
            messages.Sysrq: self._sysrq,
            messages.Trigger: self._trigger,
            messages.DebugKey: self._debug_key,
            messages.DumpCore: self._dump_core,
            messages.Rename: self._rename,
            messages.UpdateConfig: self._update_config,
            messages.SetVcpus: self._set_vcpus,
            messages.SetScheduling: self._set_scheduling,
            messages.SetAffinity: self._set_affinity,
            messages.SetMemory: self._set_memory,
            messages.SetMaxMemory: self._set_max_memory,
            messages.AttachDisk: self._attach_disk,
            messages.DetachDisk: self._detach_disk,
            messages.AttachNic: self._attach_nic,
            messages.DetachNic: self._detach_nic,
            messages.ListDevices: self._list_devices,
        }

    async def handle(self, request: Request[Any]) -> Any:
        """Do it, and return the answer. Raises PyxenError."""
        return await self._handlers[type(request)](request)

    def _running(self) -> RunningDomain:
        running = self._process.running
        if running is None:
            raise PyxenError("the domain is being built")
        return running

    async def _call(self, work: Callable[[RunningDomain], Result]) -> Result:
        """Do this in the thread of the vCPUs."""
        running = self._running()
        return await _wait(running.call(lambda: work(running)))

    def _check_runs(self) -> None:
        if self._process.shutdown_reason:
            raise PyxenError(f"the domain has shut down ({self._process.shutdown_reason})")

    # What it is

    async def _get_info(self, request: messages.GetInfo) -> DomainInfo:
        if self._process.running is None:
            record = self._process.record
            memory = record.memory_mib * _KIB_PER_MIB
            return self._info(memory, memory, False, ())
        return await self._call(self._domain_info)

    def _domain_info(self, running: RunningDomain) -> DomainInfo:
        domain = running.domain
        now = domain.clock.now()
        return self._info(
            domain.memory.nr_pages * _KIB_PER_PAGE,
            domain.memory.max_pages * _KIB_PER_PAGE,
            domain.pause_count > 0,
            tuple(_vcpu_info(vcpu, now, _last_processor()) for vcpu in domain.vcpus),
        )

    def _info(
        self, memory: int, max_memory: int, paused: bool, vcpus: tuple[VcpuInfo, ...]
    ) -> DomainInfo:
        record = self._process.record
        return DomainInfo(
            domid=record.domid,
            name=record.name,
            uuid=record.uuid,
            pid=os.getpid(),
            started=record.started,
            memory_kib=memory,
            max_memory_kib=max_memory,
            paused=paused,
            shutdown_reason=self._process.shutdown_reason,
            vcpus=vcpus,
            weight=self._process.config.weight,
            cap=self._process.config.cap,
        )

    async def _get_statistics(self, request: messages.GetStatistics) -> Figures:
        return Figures((await _wait(self._running().statistics())).to_dict())

    async def _get_config(self, request: messages.GetConfig) -> Configuration:
        return Configuration(to_json(self._process.config))

    # Its life

    async def _pause(self, request: messages.Pause) -> Done:
        """As xl: a domain that is paused stays so, and one ``unpause`` ends it."""

        def pause(running: RunningDomain) -> None:
            if not running.domain.pause_count:
                running.domain.pause()

        await self._call(pause)
        return Done()

    async def _unpause(self, request: messages.Unpause) -> Done:
        def unpause(running: RunningDomain) -> None:
            if running.domain.pause_count:
                running.domain.unpause()

        await self._call(unpause)
        return Done()

    async def _destroy(self, request: messages.Destroy) -> Done:
        # Not within this request, whose answer is to leave before the socket goes.
        asyncio.get_running_loop().call_soon(self._process.destroy)
        return Done()

    async def _shut_down(self, request: messages.Shutdown) -> Done:
        if request.action not in _SHUTDOWN_ACTIONS:
            raise PyxenError(f"shutdown: {request.action!r} is no request to a guest")
        self._check_runs()
        await _wait(self._running().request(request.action, request.seconds))
        return Done()

    async def _sysrq(self, request: messages.Sysrq) -> Done:
        if len(request.key) != 1 or not request.key.isascii():
            raise PyxenError(f"sysrq: {request.key!r} is no single letter")
        self._check_runs()
        await self._call(lambda running: _write(running, "control/sysrq", request.key))
        return Done()

    async def _trigger(self, request: messages.Trigger) -> Done:
        if request.trigger != "nmi":
            raise PyxenError(f"trigger: {request.trigger}: PV guests know nmi only")
        self._check_runs()

        def send(running: RunningDomain) -> None:
            vcpus = running.domain.vcpus
            if not (0 <= request.vcpu < len(vcpus) and vcpus[request.vcpu].initialised):
                raise PyxenError(f"trigger: the domain has no vCPU {request.vcpu}")
            vcpus[request.vcpu].raise_nmi()

        await self._call(send)
        return Done()

    async def _debug_key(self, request: messages.DebugKey) -> Done:
        handler = HANDLERS.get(request.key)
        if handler is None:
            raise PyxenError(f"debug-keys: {request.key!r} dumps nothing of a domain")
        lines = await self._call(lambda running: list(handler.dump(running.domain)))
        try:
            self._process.messages.append(lines)
        except OSError as error:
            raise PyxenError(f"{self._process.messages.path}: {error.strerror}") from None
        return Done()

    async def _dump_core(self, request: messages.DumpCore) -> Done:
        try:
            await _wait(self._running().dump_core(Path(request.path)))
        except OSError as error:
            raise PyxenError(f"{request.path}: {error.strerror}") from None
        return Done()

    async def _rename(self, request: messages.Rename) -> Done:
        check_name(request.name)
        await self._call(lambda running: self._process.rename(request.name))
        return Done()

    async def _update_config(self, request: messages.UpdateConfig) -> Done:
        self._process.update(from_json(request.config))
        return Done()

    # Its size

    async def _set_vcpus(self, request: messages.SetVcpus) -> Done:
        self._check_runs()

        def write(running: RunningDomain) -> None:
            there = len(running.domain.vcpus)
            if not 1 <= request.count <= there:
                raise PyxenError(f"vcpu-set: {request.count} asked for, expected 1 to {there}")
            for index in range(there):
                state = "online" if index < request.count else "offline"
                _write(running, f"cpu/{index}/availability", state)

        await self._call(write)
        return Done()

    async def _set_scheduling(self, request: messages.SetScheduling) -> Done:
        weight, cap = request.weight, request.cap
        if weight is not None and not 1 <= weight <= MAX_WEIGHT:
            raise PyxenError(f"weight: {weight} asked for, expected 1 to {MAX_WEIGHT}")

        def change(running: RunningDomain) -> None:
            limit = 100 * len(running.domain.vcpus)
            if cap is not None and not 0 <= cap <= limit:
                raise PyxenError(f"cap: {cap} asked for, expected 0 to {limit}")
            config = self._process.config
            config = replace(
                config,
                weight=config.weight if weight is None else weight,
                cap=config.cap if cap is None else cap,
            )
            self._process.configure(config)
            self._process.schedule(running.domain)

        await self._call(change)
        return Done()

    async def _set_affinity(self, request: messages.SetAffinity) -> Done:
        def change(running: RunningDomain) -> None:
            vcpus = range(len(running.domain.vcpus))
            if request.vcpu is not None and request.vcpu not in vcpus:
                raise PyxenError(f"vcpu-pin: the domain has no vCPU {request.vcpu}")
            config = self._process.config
            hard, soft = config.hard_affinity, config.soft_affinity
            for vcpu in vcpus if request.vcpu is None else (request.vcpu,):
                hard, soft = _changed(hard, vcpu, request.hard), _changed(soft, vcpu, request.soft)
            config = replace(config, hard_affinity=hard, soft_affinity=soft)
            self._process.check_affinity(config)
            self._process.configure(config)
            self._process.schedule(running.domain)

        await self._call(change)
        return Done()

    async def _set_memory(self, request: messages.SetMemory) -> Done:
        self._check_runs()

        def write(running: RunningDomain) -> None:
            top = int(_read(running, "memory/static-max") or b"0")
            if not 0 < request.kib <= top:
                raise PyxenError(f"mem-set: {request.kib} KiB asked for, the maximum is {top}")
            # A guest may not grow beyond its target; what it has too much it may keep.
            running.domain.memory.max_pages = request.kib // _KIB_PER_PAGE
            _write(running, "memory/target", str(request.kib))

        await self._call(write)
        return Done()

    async def _set_max_memory(self, request: messages.SetMaxMemory) -> Done:
        def write(running: RunningDomain) -> None:
            target = int(_read(running, "memory/target") or b"0")
            machine = self._process.config.top_memory_mib * _KIB_PER_MIB
            if request.kib < target:
                raise PyxenError(f"mem-max: {request.kib} KiB is less than the target, {target}")
            if request.kib > machine:
                raise PyxenError(
                    f"mem-max: {request.kib} KiB asked for, and the domain was made for "
                    f"{machine} (maxmem)"
                )
            running.domain.memory.max_pages = request.kib // _KIB_PER_PAGE
            _write(running, "memory/static-max", str(request.kib))

        await self._call(write)
        return Done()

    # Its devices. What was changed holds after a restart as well.

    async def _attach_disk(self, request: messages.AttachDisk) -> Attached:
        disk = parse_disk(request.spec)

        def attach(running: RunningDomain) -> int:
            devid = running.devices.attach_disk(disk).devid
            config = self._process.config
            self._process.configure(replace(config, disks=(*config.disks, disk)))
            return devid

        self._check_runs()
        return Attached(await self._call(attach))

    async def _detach_disk(self, request: messages.DetachDisk) -> Done:
        number = virtual_device_number(request.vdev)
        running = self._running()
        if await self._call(lambda running: running.devices.find(DISK, number)) is None:
            raise PyxenError(f"Error: Device {request.vdev} not connected.")
        await _wait(running.detach_disk(request.vdev, force=request.force, seconds=request.seconds))

        def forget(running: RunningDomain) -> None:
            config = self._process.config
            disks = tuple(disk for disk in config.disks if disk.number != number)
            self._process.configure(replace(config, disks=disks))

        await self._call(forget)
        return Done()

    async def _attach_nic(self, request: messages.AttachNic) -> Attached:
        nic = parse_nic(request.spec)

        def attach(running: RunningDomain) -> int:
            device = running.devices.attach_nic(nic)
            config = self._process.config
            self._process.configure(replace(config, nics=(*config.nics, device.config)))
            return device.devid

        self._check_runs()
        return Attached(await self._call(attach))

    async def _detach_nic(self, request: messages.DetachNic) -> Done:
        running = self._running()
        devid = await self._call(lambda running: _find_nic(running, request.device))
        await _wait(running.detach_nic(devid, seconds=request.seconds))

        def forget(running: RunningDomain) -> None:
            config = self._process.config
            nics = tuple(nic for nic in config.nics if nic.devid != devid)
            self._process.configure(replace(config, nics=nics))

        await self._call(forget)
        return Done()

    async def _list_devices(self, request: messages.ListDevices) -> DeviceList:
        def look(running: RunningDomain) -> tuple[DeviceInfo, ...]:
            devices = [each for each in running.devices.all() if each.kind == request.kind]
            return tuple(
                DeviceInfo(
                    each.kind,
                    each.devid,
                    each.backend_path,
                    _read_all(running, each.frontend_path),
                )
                for each in sorted(devices, key=lambda each: each.devid)
            )

        return DeviceList(await self._call(look))


async def _wait(future: Future[Result]) -> Result:
    """A request that is given up, as its client has gone, is done all the same."""
    try:
        return await asyncio.shield(asyncio.wrap_future(future))
    except StoreError as error:
        raise PyxenError(f"xenstored: {error}") from None


def _last_processor() -> int:
    """On which of the host's processors the calling thread runs, or last did; proc(5)."""
    return int(Path("/proc/thread-self/stat").read_text().rpartition(")")[2].split()[36])


def _vcpu_info(vcpu: Vcpu, now: int, cpu: int) -> VcpuInfo:
    times = list(vcpu.runstate_times)
    times[vcpu.runstate] += max(0, now - vcpu.runstate_since)
    running, runnable, blocked, offline = times
    return VcpuInfo(
        index=vcpu.index,
        online=vcpu.up,
        running=vcpu.runstate == RUNSTATE_running,
        blocked=vcpu.blocked,
        cpu_ns=running,
        runnable_ns=runnable,
        blocked_ns=blocked,
        offline_ns=offline,
        cpu=cpu,
        hard_affinity=vcpu.hard_affinity,
        soft_affinity=vcpu.soft_affinity,
    )


def _changed(masks: tuple[int, ...], vcpu: int, mask: int | None) -> tuple[int, ...]:
    """The affinities with another one for this vCPU."""
    if mask is None:
        return masks
    longer = masks + (ALL,) * (vcpu + 1 - len(masks))
    return (*longer[:vcpu], mask, *longer[vcpu + 1 :])


def _write(running: RunningDomain, node: str, value: str) -> None:
    running.client.write(f"/local/domain/{running.domid}/{node}", value)


def _read(running: RunningDomain, node: str) -> bytes:
    return running.client.read(f"/local/domain/{running.domid}/{node}")


def _read_all(running: RunningDomain, path: str) -> dict[str, str]:
    """The nodes just below this one. The guest writes some of them: any bytes."""
    try:
        names = running.client.directory(path)
        return {
            name: running.client.read(f"{path}/{name}").decode("ascii", "replace") for name in names
        }
    except StoreError:
        return {}


def _find_nic(running: RunningDomain, text: str) -> int:
    """By number or by address, as xl takes them."""
    for device in running.devices.all():
        if device.kind == NIC and text.lower() in (str(device.devid), device.config.mac):
            return device.devid
    raise PyxenError(f"Unknown device {text}.")
