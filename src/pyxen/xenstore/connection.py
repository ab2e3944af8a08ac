# SPDX-License-Identifier: GPL-2.0-or-later
"""A client of the store, without its transport.

The transport (a socket, a guest's ring, a client in this process) feeds the bytes that arrive into
``receive``, at most ``wanted``, and takes what is to be sent from ``output``. Answers leave in the
order of the requests; events may stand between them.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field

from pyxen.abi.io_xs_wire import (
    XENSTORE_PAYLOAD_MAX,
    XS_ERROR,
    XS_INVALID,
    XS_WATCH_EVENT,
    XSD_SOCKMSG,
)
from pyxen.xenstore import paths
from pyxen.xenstore.features import FEATURES
from pyxen.xenstore.wire import Message, Parser, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyxen.xenstore.confinement import Confinement
    from pyxen.xenstore.daemon import Xenstored
    from pyxen.xenstore.domains import DomainRecord
    from pyxen.xenstore.nodes import Transaction
    from pyxen.xenstore.quotas import Quotas
    from pyxen.xenstore.watches import Watch

_LAST_TRANSACTION: Final = 0xFFFFFFFF
_SHORT: Final = 16
"""Answers up to it, errors among them, are given even above the quota of memory."""


def _nothing() -> None:
    pass


class Pending(Struct, eq=False):
    """A request that counts as outstanding while its answer, or an event that it has caused,
    waits to be taken."""

    domain: DomainRecord
    waiting: int = 1

    def done(self) -> None:
        """One of them has gone."""
        self.waiting -= 1
        if not self.waiting:
            self.domain.finish_request()


class Output(Struct, eq=False):
    """A message on its way. ``sent``: how many of its bytes the transport has sent already.
    ``deadline``: of an event that is dropped if the client does not take it."""

    message: Message
    pending: Pending | None
    deadline: float | None = None
    sent: int = 0

    @property
    def event(self) -> bool:
        return self.message.type == XS_WATCH_EVENT

    @property
    def size(self) -> int:
        return XSD_SOCKMSG.size + len(self.message.payload)


class Connection(Struct, eq=False):
    """``domid`` is 0 for sockets, which are dom0's. ``domain`` is what the store knows of a domain
    that speaks over its ring. ``target``: a domain whose rights this one has, too.

    ``wake`` is called after a request, of anybody, when there is something to send, or when quotas
    do not hold requests back any more. ``ignored``: nothing more is read or sent.

    ``confined``: what it is limited to, if it is (``confinement``).
    ``become_guest(domid, removes)``: of a transport that can be made a domain's (``server``).
    ``in_stream``: bytes that are on their way cannot be taken back, so messages stay whole even
    when the client begins anew.
    """

    daemon: Xenstored
    domid: int = 0
    domain: DomainRecord | None = None
    target: int | None = None
    wake: Callable[[], None] = _nothing
    watches: dict[tuple[str, str], Watch] = field(default_factory=dict)
    transactions: dict[int, Transaction] = field(default_factory=dict)
    output: deque[Output] = field(default_factory=deque)
    ignored: bool = False
    become_guest: Callable[[int, Sequence[str]], None] | None = None
    in_stream: bool = False
    confined: Confinement | None = None

    request: Pending | None = None
    held_back: bool = False
    delayed: Message | None = None
    _parser: Parser = field(default_factory=Parser)
    _next_transaction: int = 1
    _events: set[bytes] = field(default_factory=set)

    @property
    def unprivileged(self) -> bool:
        return self.domid != 0

    @property
    def directory(self) -> str:
        """To which relative paths refer."""
        return paths.domain_directory(self.domid)

    @property
    def features(self) -> int:
        """What it may use of the protocol."""
        return FEATURES if self.domain is None else self.domain.features

    @property
    def quotas(self) -> Quotas:
        """What holds for it, if it is unprivileged."""
        return self.daemon.quotas if self.domain is None else self.domain.quotas

    def set_wake(self, wake: Callable[[], None]) -> None:
        """Of its transport, see ``wake``."""
        self.wake = wake

    def wake_later(self) -> None:
        """Call ``wake`` when the present request is done."""
        self.daemon.woken[self] = None

    # Input

    @property
    def wanted(self) -> int:
        """How many bytes to read next, 0 while quotas forbid to."""
        if self.ignored or self.delayed is not None:
            return 0
        self.held_back = self.domain is not None and self.domain.is_stalled()
        return 0 if self.held_back else self._parser.wanted

    def receive(self, data: bytes | memoryview) -> None:
        """Take bytes, at most ``wanted``, and serve the request that they complete.

        Raises ProtocolError: the connection is to end.
        """
        message = self._parser.feed(data)
        if message is None:
            return
        update = self.daemon.live_update
        if update is not None and update.delays(self, message):
            self.delayed = message
        else:
            self.daemon.serve(self, message)

    def resume(self) -> None:
        """Serve the request that was delayed by a live update, if there is one."""
        message, self.delayed = self.delayed, None
        if message is not None:
            self.wake_later()
            self.daemon.serve(self, message)

    @property
    def unread(self) -> bytes:
        """What has been received and not been served."""
        delayed = b"" if self.delayed is None else self.delayed.pack()
        return delayed + self._parser.pending

    # Output

    def answer(self, message: Message, payload: bytes) -> None:
        """Answer a request."""
        if len(payload) > XENSTORE_PAYLOAD_MAX:
            self.refuse(message, "E2BIG")
            return
        size = XSD_SOCKMSG.size + len(payload)
        if len(payload) > _SHORT and self.domain is not None and not self.domain.has_room(size):
            self.refuse(message, "ENOMEM")
            return
        self._send(Message(message.type, message.request, message.transaction, payload))

    def refuse(self, message: Message, error: str) -> None:
        """Answer a request by the name of an error."""
        payload = encode(error) + b"\0"
        self._send(Message(XS_ERROR, message.request, message.transaction, payload))

    def _send(self, message: Message) -> None:
        self._queue(Output(message, self.request))

    def _queue(self, output: Output) -> None:
        self.output.append(output)
        if self.domain is not None:
            self.domain.charge(output.size)
        self.wake_later()

    def send_again(self, data: bytes, partial: int) -> None:
        """Have bytes sent that another server has left: messages, and before them the last
        ``partial`` bytes of one. Raises ProtocolError."""
        if partial:
            rest = Output(Message(XS_INVALID, 0, 0, data[:partial]), self._pending())
            rest.sent = XSD_SOCKMSG.size
            self._queue(rest)
        parser = Parser()
        place = partial
        while place < len(data):
            piece = data[place : place + parser.wanted]
            place += len(piece)
            message = parser.feed(piece)
            if message is None:
                continue
            if message.type != XS_WATCH_EVENT:
                self._queue(Output(message, self._pending()))
                continue
            output = Output(message, None)
            if self.domain is not None:
                output.deadline = self.daemon.event_deadline()
            self._events.add(message.payload)
            self._queue(output)

    def _pending(self) -> Pending | None:
        if self.domain is None:
            return None
        self.domain.outstanding += 1
        return Pending(self.domain)

    def send_event(self, path: str, token: str, cause: Pending | None) -> None:
        """Tell of a change. The same event is not told twice while the first one waits."""
        payload = encode(f"{path}\0{token}\0")
        if len(payload) > XENSTORE_PAYLOAD_MAX or self.ignored:
            return
        if not path.startswith(paths.SPECIAL) and payload in self._events:
            return
        output = Output(Message(XS_WATCH_EVENT, 0, 0, payload), cause)
        if self.domain is not None:
            if not self.domain.has_room(output.size):
                return
            output.deadline = self.daemon.event_deadline()
        if cause is not None:
            cause.waiting += 1
        self._events.add(payload)
        self._queue(output)

    def sent(self) -> None:
        """The first of ``output`` has left."""
        self._forget(self.output.popleft())

    def _forget(self, output: Output) -> None:
        if output.event:
            self._events.discard(output.message.payload)
        if output.pending is not None:
            output.pending.done()
        if self.domain is not None:
            self.domain.charge(-output.size)

    def drop_events(self, now: float) -> float | None:
        """Drop events that have waited too long; returns the next deadline, None if there is none.

        An event of which a part has been sent stays.
        """
        late = [
            each
            for each in self.output
            if each.deadline is not None and each.deadline <= now and not each.sent
        ]
        for each in late:
            self.output.remove(each)
            self._forget(each)
        return min((e.deadline for e in self.output if e.deadline and not e.sent), default=None)

    # Transactions

    def add_transaction(self, transaction: Transaction) -> int:
        """Returns its number."""
        while self._next_transaction in self.transactions or not self._next_transaction:
            self._next_transaction = (self._next_transaction + 1) & _LAST_TRANSACTION
        number = self._next_transaction
        self._next_transaction = (number + 1) & _LAST_TRANSACTION
        self.transactions[number] = transaction
        return number

    def drop_transactions(self) -> None:
        """End all, without their changes."""
        for transaction in self.transactions.values():
            transaction.end()
        self.transactions.clear()

    def reset(self) -> None:
        """Forget watches, transactions and what was to be sent, as for a new client."""
        self.daemon.remove_watches(self)
        self.drop_transactions()
        if self.in_stream and not self.ignored:
            return
        while self.output:
            self._forget(self.output.popleft())
        self._parser = Parser()
        self.delayed = None

    def begin_anew(self) -> None:
        """Its domain has another transport now, with nothing under way."""
        self.in_stream = False
        self.reset()
        self.ignored = False

    def ignore(self) -> None:
        """Listen no more; the domain is still there."""
        self.ignored = True
        self.reset()
