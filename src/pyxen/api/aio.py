# SPDX-License-Identifier: GPL-2.0-or-later
"""``Domain`` for asyncio: the same methods, to be awaited.

Each of them is done by the blocking one in a thread. A task that is cancelled does not wait for it
any more; the thread ends with its time-out.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from pyxen.api.console import EXPECT_SECONDS, CommandResult, Console
from pyxen.api.domain import SHUTDOWN_SECONDS, Domain, Option
from pyxen.toolstack.control.messages import DeviceInfo, DomainInfo


class AsyncConsole:
    """See ``Console``."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @property
    def text(self) -> str:
        return self._console.text

    @property
    def ended(self) -> bool:
        return self._console.ended

    def read(self) -> str:
        return self._console.read()

    async def send(self, text: str | bytes) -> None:
        await asyncio.to_thread(self._console.send, text)

    async def expect(self, pattern: str, timeout: float = EXPECT_SECONDS) -> re.Match[str]:
        return await asyncio.to_thread(self._console.expect, pattern, timeout)

    async def run(self, command: str, timeout: float = EXPECT_SECONDS) -> CommandResult:
        return await asyncio.to_thread(self._console.run, command, timeout)


class AsyncDomain:
    """See ``Domain``; an asynchronous context manager."""

    def __init__(
        self, file: str | os.PathLike[str] | None = None, *, paused: bool = False, **options: Option
    ) -> None:
        self._domain = Domain(file, paused=paused, **options)

    @classmethod
    async def connect(cls, qualifier: str | int) -> AsyncDomain:
        domain = cls.__new__(cls)
        domain._domain = await asyncio.to_thread(Domain.connect, qualifier)
        return domain

    async def __aenter__(self) -> AsyncDomain:
        await asyncio.to_thread(self._domain.__enter__)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.to_thread(self._domain.__exit__, *exception)

    @property
    def domid(self) -> int:
        return self._domain.domid

    @property
    def console(self) -> AsyncConsole:
        return AsyncConsole(self._domain.console)

    async def start(self) -> None:
        await asyncio.to_thread(self._domain.start)

    async def close(self) -> None:
        await asyncio.to_thread(self._domain.close)

    async def destroy(self) -> None:
        await asyncio.to_thread(self._domain.destroy)

    async def pause(self) -> None:
        await asyncio.to_thread(self._domain.pause)

    async def unpause(self) -> None:
        await asyncio.to_thread(self._domain.unpause)

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        await self.pause()
        try:
            yield
        finally:
            await self.unpause()

    async def shutdown(self, timeout: float = SHUTDOWN_SECONDS) -> str:
        return await asyncio.to_thread(self._domain.shutdown, timeout)

    async def reboot(self, timeout: float = SHUTDOWN_SECONDS) -> None:
        await asyncio.to_thread(self._domain.reboot, timeout)

    async def wait(self, timeout: float = SHUTDOWN_SECONDS) -> str:
        return await asyncio.to_thread(self._domain.wait, timeout)

    async def run(self, command: str, timeout: float = EXPECT_SECONDS) -> CommandResult:
        return await asyncio.to_thread(self._domain.run, command, timeout)

    async def sysrq(self, key: str) -> None:
        await asyncio.to_thread(self._domain.sysrq, key)

    async def info(self) -> DomainInfo:
        return await asyncio.to_thread(self._domain.info)

    async def statistics(self) -> Mapping[str, Any]:
        return await asyncio.to_thread(self._domain.statistics)

    async def set_vcpus(self, count: int) -> None:
        await asyncio.to_thread(self._domain.set_vcpus, count)

    async def set_memory(self, mib: int) -> None:
        await asyncio.to_thread(self._domain.set_memory, mib)

    async def attach_disk(self, spec: str) -> int:
        return await asyncio.to_thread(self._domain.attach_disk, spec)

    async def detach_disk(self, vdev: str, *, force: bool = False) -> None:
        await asyncio.to_thread(self._domain.detach_disk, vdev, force=force)

    async def attach_nic(self, spec: str) -> int:
        return await asyncio.to_thread(self._domain.attach_nic, spec)

    async def detach_nic(self, devid: int) -> None:
        await asyncio.to_thread(self._domain.detach_nic, devid)

    async def devices(self, kind: str) -> tuple[DeviceInfo, ...]:
        return await asyncio.to_thread(self._domain.devices, kind)
