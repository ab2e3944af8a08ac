# SPDX-License-Identifier: GPL-2.0-or-later
"""Any sequence of requests has the same answers and events as the naive model has."""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from store_model import Model, ModelClient, Refused
from store_peer import Peer

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore import Quotas, StoreError, Xenstored

NODES, WATCHES, TRANSACTIONS, SIZE, SEEN = 7, 3, 1, 120, 9

names = st.sampled_from("ab")
relative = st.lists(names, min_size=1, max_size=3).map("/".join)
homes = st.sampled_from(["/", "/local/domain/1", "/local/domain/2", "/d"])
absolute = st.tuples(homes, relative).map(lambda parts: parts[0].rstrip("/") + "/" + parts[1])
paths = (
    absolute
    | relative
    | homes
    | st.sampled_from(["/tool", "/local/domain", "/a/", "//a", "/a b", "", "/tool/x"])
)
values = st.sampled_from([b"", b"1", b"2", b"x" * 60, b"y" * 90])
who = st.integers(0, 3)
permission = st.tuples(st.sampled_from("nrwb"), st.sampled_from([0, 1, 2])).map(
    lambda parts: f"{parts[0]}{parts[1]}"
)
permissions = st.lists(permission, min_size=1, max_size=3)
numbers = st.sampled_from([0, 0, 0, 1, 2, 3])


class Store(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        quotas = Quotas(
            nodes=NODES,
            watches=WATCHES,
            transactions=TRANSACTIONS,
            node_size=SIZE,
            transaction_nodes=SEEN,
        )
        self.daemon = Xenstored(quotas=quotas)
        self.model = Model(NODES, WATCHES, TRANSACTIONS, SIZE, SEEN)
        self.peers: list[Peer] = []
        self.model.incarnations |= {1: 0, 2: 0}
        for _ in range(2):
            self.peers.append(Peer(self.daemon.connect()))
            self.model.clients.append(ModelClient(0))
        for domid in (1, 2):
            self.introduce(domid)

    def introduce(self, domid: int) -> None:
        self.daemon.introduce(domid, 0, 1)
        connection = self.daemon.domains[domid].connection
        assert connection is not None
        self.peers.append(Peer(connection))
        self.model.clients.append(ModelClient(domid))
        home = f"/local/domain/{domid}"
        self.both(0, 0, lambda peer: peer.mkdir(home), lambda model: model.mkdir(home))
        letters = [f"n{domid}"]
        self.both(
            0,
            0,
            lambda peer: peer.set_permissions(home, letters),
            lambda model: model.set_permissions(home, letters),
        )

    def both(
        self,
        who: int,
        number: int,
        ask: Callable[[Peer], object],
        expect: Callable[[Model], object],
    ) -> None:
        """The same to the store and to the model."""
        try:
            self.model.begin(self.model.clients[who], number)
            expected = expect(self.model)
        except Refused as error:
            expected = ("refused", str(error))
        peer = self.peers[who]
        peer.transaction = number
        try:
            answer = ask(peer)
        except StoreError as error:
            answer = ("refused", error.name)
        peer.transaction = 0
        assert answer == expected
        self.compare_events()

    @rule(who=who, number=numbers, path=paths)
    def read(self, who: int, number: int, path: str) -> None:
        self.both(who, number, lambda peer: peer.read(path), lambda model: model.read(path))

    @rule(who=who, number=numbers, path=paths)
    def directory(self, who: int, number: int, path: str) -> None:
        self.both(
            who, number, lambda peer: peer.directory(path), lambda model: model.directory(path)
        )

    @rule(who=who, number=numbers, path=paths)
    def get_permissions(self, who: int, number: int, path: str) -> None:
        self.both(
            who,
            number,
            lambda peer: peer.permissions(path),
            lambda model: model.get_permissions(path),
        )

    @rule(who=who, number=numbers, path=paths, value=values)
    def write(self, who: int, number: int, path: str, value: bytes) -> None:
        self.both(
            who,
            number,
            lambda peer: peer.write(path, value),
            lambda model: model.write(path, value),
        )

    @rule(who=who, number=numbers, path=paths)
    def mkdir(self, who: int, number: int, path: str) -> None:
        self.both(who, number, lambda peer: peer.mkdir(path), lambda model: model.mkdir(path))

    @rule(who=who, number=numbers, path=paths)
    def remove(self, who: int, number: int, path: str) -> None:
        if path in ("/local/domain", "/local"):
            return  # the homes stay
        self.both(who, number, lambda peer: peer.remove(path), lambda model: model.remove(path))

    @rule(who=who, number=numbers, path=paths, new=permissions)
    def set_permissions(self, who: int, number: int, path: str, new: list[str]) -> None:
        self.both(
            who,
            number,
            lambda peer: peer.set_permissions(path, new),
            lambda model: model.set_permissions(path, new),
        )

    @rule(who=who, path=paths, token=names, depth=st.sampled_from([None, None, 0, 1, 2]))
    def watch(self, who: int, path: str, token: str, depth: int | None) -> None:
        limit = [] if depth is None else [str(depth)]

        def ask(peer: Peer) -> None:
            peer.call(abi.XS_WATCH, path, token, *limit)

        self.both(who, 0, ask, lambda model: model.watch(path, token, depth))

    @rule(who=who, path=paths, token=names)
    def unwatch(self, who: int, path: str, token: str) -> None:
        def ask(peer: Peer) -> None:
            peer.call(abi.XS_UNWATCH, path, token)

        self.both(who, 0, ask, lambda model: model.unwatch(path, token))

    @rule(who=who)
    def reset_watches(self, who: int) -> None:
        def ask(peer: Peer) -> None:
            peer.call(abi.XS_RESET_WATCHES, "")

        self.both(who, 0, ask, lambda model: model.reset_watches())

    @rule(who=who, number=st.sampled_from([0, 0, 0, 1]))
    def start(self, who: int, number: int) -> None:
        self.both(
            who,
            number,
            lambda peer: int(peer.call(abi.XS_TRANSACTION_START, "")[0]),
            lambda model: model.start(),
        )

    @rule(who=who, number=numbers, commit=st.sampled_from([True, True, False]))
    def end(self, who: int, number: int, commit: bool) -> None:
        def ask(peer: Peer) -> None:
            peer.call(abi.XS_TRANSACTION_END, "T" if commit else "F")

        def expect(model: Model) -> None:
            if not number:
                raise Refused("ENOENT")
            model.end(number, commit)

        self.both(who, number, ask, expect)

    @rule(domid=st.sampled_from([1, 2]))
    def die_and_come_again(self, domid: int) -> None:
        self.model.release(domid)
        self.daemon.release(domid)
        self.peers = [peer for peer in self.peers if peer.connection.domid != domid]
        self.compare_events()
        self.introduce(domid)

    @invariant()
    def compare_events(self) -> None:
        for peer, client in zip(self.peers, self.model.clients, strict=True):
            assert peer.events() == client.events
            client.events.clear()

    @invariant()
    def compare_stores(self) -> None:
        tree = self.daemon.database.tree
        assert set(tree) == set(self.model.nodes)
        for path, node in self.model.nodes.items():
            assert tree[path].value == node.value
            assert tree[path].child_names == node.children
            assert tree[path].size == node.size()
            listed = [str(each) for each in tree[path].permissions]
            assert listed == [f"{letter}{domid}" for letter, domid, _ in node.permissions]

    @invariant()
    def check_accounts(self) -> None:
        for domid, record in self.daemon.domains.items():
            nodes = self.daemon.database.tree.items()
            owned = {path: node for path, node in nodes if node.owner == domid}
            assert record.nodes == set(owned)
            memory = sum(node.size + len(path) for path, node in owned.items())
            if record.connection is not None:
                watches = record.connection.watches
                memory += sum(len(path) + len(token) for path, token in watches)
                memory += sum(each.memory for each in record.connection.transactions.values())
                assert record.watches == len(watches)
            assert record.memory == memory
            assert record.outstanding == 0


TestStore = Store.TestCase
TestStore.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, report_multiple_bugs=False
)


def test_a_long_random_walk() -> None:
    """More steps than the state machine takes, so that what needs a history comes up."""
    chance = random.Random(7)

    def draw(strategy: list[object]) -> object:
        return chance.choice(strategy)

    store = Store()
    store.begin()
    some = ["/d/a", "/d/b", "/d/a/b", "a", "b", "a/b", "/local/domain/1/a", "/local/domain/2", "/a"]
    for _ in range(6000):
        who, number, path = chance.randrange(4), chance.choice([0, 0, 1, 2, 3, 4]), draw(some)
        step = chance.randrange(14)
        if step < 4:
            store.write(who, number, path, chance.choice([b"", b"1", b"x" * 60, b"y" * 90]))
        elif step < 5:
            store.remove(who, number, path)
        elif step < 6:
            letters = [f"{chance.choice('nrwb')}{chance.randrange(3)}" for _ in range(2)]
            store.set_permissions(who, number, path, letters)
        elif step < 7:
            store.read(who, number, path)
        elif step < 8:
            store.directory(who, number, path)
        elif step < 9:
            store.watch(who, path, chance.choice("ab"), chance.choice([None, 0, 1]))
        elif step < 10:
            store.unwatch(who, path, chance.choice("ab"))
        elif step < 11:
            store.start(who, 0)
        elif step < 12:
            store.end(who, number, chance.random() < 0.8)
        elif step < 13:
            store.mkdir(who, number, path)
        elif chance.random() < 0.1:
            store.die_and_come_again(1 + chance.randrange(2))
        elif chance.random() < 0.2:
            store.reset_watches(who)
        store.compare_events()
        store.compare_stores()
        store.check_accounts()
