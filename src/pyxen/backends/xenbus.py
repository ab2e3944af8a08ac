# SPDX-License-Identifier: GPL-2.0-or-later
"""xenbus: how the two ends of a device find each other through the xenstore.

A device has two directories: the front end's in that of the guest, ``device/KIND/ID``, which the
guest may write to, and the back end's in that of domain 0, ``backend/KIND/DOMID/ID``, which the
guest may only read. Each names the other one, and has a ``state``:

1. The tool stack makes both, *Initialising*. The back end writes what it offers, and *InitWait*.
2. The front end reads that, allocates rings and ports, writes where they are, and *Initialised*, or
   *Connected* at once. The back end reads that, connects, and writes *Connected*. The front end
   reads what the device is (its size, say), and is *Connected*, too.
3. Either writes *Closing* when it wants to end; a front end that is still in use stays there. When
it
   has given up its rings it writes *Closed*; the back end lets go of them and is *Closed*.
4. The front end may begin anew with *Initialising*, as its driver does that is loaded again: the
back
   end waits for it in *InitWait*.

The front end is the guest's: it may write any state at any time, anything into the other nodes, and
remove all. ``XenbusMachine`` takes every change as it comes, looks at the state only as it is now,
and gives up all that it holds of a front end that makes no sense. A back end is a subclass of
``Backend``.

Reference: ``public/io/xenbus.h``.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Final

from pyxen.abi.io_xenbus import (
    XENBUS_STATE_NAMES,
    XenbusStateClosed,
    XenbusStateClosing,
    XenbusStateConnected,
    XenbusStateInitialised,
    XenbusStateInitialising,
    XenbusStateInitWait,
    XenbusStateReconfigured,
    XenbusStateReconfiguring,
    XenbusStateUnknown,
)
from pyxen.backends.doors import StoreError
from pyxen.errors import PyxenError, XenError
from pyxen.hypervisor.grants import GrantError

if TYPE_CHECKING:
    from pyxen.backends.doors import Doors
    from pyxen.hypervisor.events_back_end import BackEndPort

log = logging.getLogger("pyxen")

BACK_END_DIRECTORY: Final = "/local/domain/0"
_TOLD_FAILURES: Final = 5
"""A front end may fail for ever; the log need not grow with it."""
_LONGEST_VALUE: Final = 200


class BackendError(PyxenError):
    """What the front end, or the outside, makes impossible: the device is closed, with this
    message in the store and in the log."""


class Backend(ABC):
    """One device's back end. ``kind`` names its directories; all methods are called in the thread
    of the vCPUs."""

    kind: ClassVar[str]

    def __init__(self, doors: Doors, backend_path: str, frontend_path: str) -> None:
        self.doors = doors
        self.backend_path = backend_path
        self.frontend_path = frontend_path
        self.machine = XenbusMachine(self)

    # What a back end is

    @abstractmethod
    def advertise(self) -> dict[str, str]:
        """Nodes of its directory that are written before *InitWait*: what it offers."""

    @abstractmethod
    def connect(self) -> None:
        """The front end is ready: read its nodes, map its rings, bind its ports, write what the
        front end reads then. May raise BackendError, GrantError, XenError or StoreError, after
        which ``disconnect`` is called."""

    @abstractmethod
    def disconnect(self) -> None:
        """Let go of all that belongs to the front end, when nothing of it is used any more:
        mappings, ports. Called after a failure, too, and a second time for nothing."""

    def reconfigure(self) -> None:  # noqa: B027  # most have nothing to do
        """The front end has changed its nodes while connected. May raise what ``connect`` may."""

    def close(self) -> None:  # noqa: B027
        """Let go of all that belongs to the host, such as files; ``disconnect`` came before."""

    def statistics(self) -> dict[str, int]:
        """Counters, by name."""
        return {}

    # What it is offered

    def read_frontend(self, name: str, default: str | None = None) -> str:
        """The value of one of the front end's nodes. Raises BackendError if it is missing and there
        is no default."""
        try:
            value = self.doors.store.read(f"{self.frontend_path}/{name}")
        except StoreError:
            if default is None:
                raise BackendError(f"the front end has not written {name}") from None
            return default
        return value.decode("latin-1")

    def read_frontend_int(
        self, name: str, default: int | None = None, low: int = 0, high: int = 0xFFFF_FFFF
    ) -> int:
        """The same as a decimal number. Raises BackendError for what is none, or out of range."""
        text = self.read_frontend(name, None if default is None else str(default))
        if not (text.isascii() and text.isdigit() and len(text) <= 20):
            raise BackendError(f"{name}: a number is expected, not {_shown(text)}")
        value = int(text)
        if not low <= value <= high:
            raise BackendError(f"{name}: {value} is not in {low} to {high}")
        return value

    def bind(self, guest_port: int, notify: Callable[[], None]) -> BackEndPort:
        """Connect to the front end's port. A BackendError out of ``notify`` closes the device."""
        return self.doors.bind(guest_port, self.guard(notify))

    def guard(self, work: Callable[[], None]) -> Callable[[], None]:
        """``work``, but a BackendError out of it closes the device."""

        def guarded() -> None:
            try:
                work()
            except BackendError as error:
                self.fail(str(error))

        return guarded

    def write(self, values: dict[str, str]) -> None:
        """Set nodes of the back end's own directory, in one transaction."""
        self.doors.store.write_many(
            {f"{self.backend_path}/{name}": value for name, value in values.items()}
        )

    def announce(self) -> None:
        """Let a connected front end look at the back end's nodes again: writes the state anew."""
        self.machine.announce()

    def fail(self, message: str) -> None:
        """Close the device: it has been disconnected when this returns."""
        self.machine.fail(message)


class XenbusMachine:
    """Drives a back end through the states; see the module. ``state`` is what it has written."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.state = XenbusStateInitialising
        self.failures = 0
        self.ended: list[Callable[[], None]] = []
        """Called when the device is gone: by ``detach``, or because the front end has closed it."""
        self.live = False
        """Between ``attach`` and the end."""
        self._watch: object = None
        self._online = True

    def attach(self) -> None:
        """Begin: the tool stack has made the directories."""
        self.live = True
        self.backend.write(self.backend.advertise())
        self._enter(XenbusStateInitWait)
        path = f"{self.backend.frontend_path}/state"
        self._watch = self.backend.doors.store.watch(path, self._on_change)

    def detach(self, force: bool = False) -> None:
        """Ask the front end to close; the device ends when it has. With ``force`` it ends at once.

        A front end that is not connected is not asked.
        """
        self._online = False
        if force or self.state in (XenbusStateInitialising, XenbusStateInitWait, XenbusStateClosed):
            self.end()
            return
        self.backend.write({"online": "0", "state": str(XenbusStateClosing)})
        self.state = XenbusStateClosing
        self._follow()

    def end(self) -> None:
        """Let go of everything, at once. A second time does nothing."""
        if not self.live:
            return
        self.live = False
        self.backend.doors.store.unwatch(self._watch)
        self.backend.disconnect()
        self.backend.close()
        self._enter(XenbusStateClosed)
        for call in self.ended:
            call()

    def announce(self) -> None:
        """See ``Backend.announce``."""
        if self.state == XenbusStateConnected:
            self._enter(XenbusStateConnected)

    def fail(self, message: str) -> None:
        """See ``Backend.fail``."""
        backend = self.backend
        if not self.live:
            return
        self.failures += 1
        device = backend.backend_path.removeprefix(f"{BACK_END_DIRECTORY}/")
        if self.failures <= _TOLD_FAILURES:
            more = "; more is not told" if self.failures == _TOLD_FAILURES else ""
            log.warning("%s: %s; the device is closed%s", device, message, more)
        backend.disconnect()
        backend.doors.store.write(f"{BACK_END_DIRECTORY}/error/{device}/error", message)
        self._enter(XenbusStateClosing)

    # States

    def _on_change(self, path: str) -> None:
        if self.live:
            self._follow()

    def _follow(self) -> None:
        """Do what the front end's present state asks for."""
        front = self._front_state()
        step = _STEPS.get(front)
        if step is not None:
            step(self)
        elif self.state not in (XenbusStateClosing, XenbusStateClosed):
            name = XENBUS_STATE_NAMES.get(front, str(front))
            self.fail(f"the front end is in state {name}")

    def _front_state(self) -> int:
        """*Unknown* for a node that is gone, or is no number."""
        text = self.backend.read_frontend("state", "")
        if not (text.isascii() and text.isdigit() and len(text) <= 9):
            return XenbusStateUnknown
        return int(text)

    def _enter(self, state: int) -> None:
        self.state = state
        self.backend.write({"state": str(state)})

    def _on_initialising(self) -> None:
        """A front end begins; if there was one before, what it left is void."""
        if self.state == XenbusStateInitWait:
            return
        self._disconnect_for_good_if_offline()
        if self.live:
            self._enter(XenbusStateInitWait)

    def _on_ready(self) -> None:
        if self.state == XenbusStateReconfigured:
            self._enter(XenbusStateConnected)
        elif self.state == XenbusStateInitWait:
            self._try(self.backend.connect, XenbusStateConnected)

    def _on_reconfiguring(self) -> None:
        if self.state == XenbusStateConnected:
            self._try(self.backend.reconfigure, XenbusStateReconfigured)

    def _on_closing(self) -> None:
        """It may still use the device: it closes when its last user has gone."""
        if self.state not in (XenbusStateClosing, XenbusStateClosed):
            self._enter(XenbusStateClosing)

    def _on_closed(self) -> None:
        if self.state == XenbusStateClosed and self._online:
            return
        self._disconnect_for_good_if_offline()
        if self.live:
            self._enter(XenbusStateClosed)

    def _on_gone(self) -> None:
        """The nodes are not there, or not yet."""
        if self.state != XenbusStateInitWait:
            self._on_closed()

    def _disconnect_for_good_if_offline(self) -> None:
        if self._online:
            self.backend.disconnect()
        else:
            self.end()

    def _try(self, work: Callable[[], None], state: int) -> None:
        """Do a step of the back end's and enter the state, or fail."""
        try:
            work()
        except GrantError as error:
            self.fail(f"a grant is refused: {error}")
        except XenError as error:
            self.fail(f"a port is refused: error {error.errno}")
        except StoreError as error:
            self.fail(f"the store refuses: {error}")
        except BackendError as error:
            self.fail(str(error))
        else:
            self._enter(state)


def _shown(text: str) -> str:
    """A guest's text for a message: of limited length, without control characters."""
    return ascii(text[:_LONGEST_VALUE])


_STEPS: Final[dict[int, Callable[[XenbusMachine], None]]] = {
    XenbusStateUnknown: XenbusMachine._on_gone,
    XenbusStateInitialising: XenbusMachine._on_initialising,
    XenbusStateInitialised: XenbusMachine._on_ready,
    XenbusStateConnected: XenbusMachine._on_ready,
    XenbusStateClosing: XenbusMachine._on_closing,
    XenbusStateClosed: XenbusMachine._on_closed,
    XenbusStateReconfiguring: XenbusMachine._on_reconfiguring,
}
