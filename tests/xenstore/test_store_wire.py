# SPDX-License-Identifier: GPL-2.0-or-later
"""The wire protocol: whatever arrives, in whatever pieces, is answered or ends the connection."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_peer import Peer

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore import StoreError, Xenstored
from pyxen.xenstore.requests import DirectoryParts, pack, unpack
from pyxen.xenstore.wire import Message, Parser, ProtocolError

words = st.integers(0, 0xFFFFFFFF)
messages = st.builds(Message, words, words, words, st.binary(max_size=300))


def parse(data: bytes, sizes: list[int]) -> list[Message]:
    """What is in bytes that come in pieces of these sizes, over and over."""
    parser = Parser()
    found = []
    step = 0
    while data:
        size = min(parser.wanted, sizes[step % len(sizes)], len(data))
        message = parser.feed(data[:size])
        if message is not None:
            found.append(message)
        data = data[size:]
        step += 1
    return found


@given(st.lists(messages, max_size=5), st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_messages_in_any_pieces(sent: list[Message], sizes: list[int]) -> None:
    assert parse(b"".join(message.pack() for message in sent), sizes) == sent


@given(st.binary(max_size=400), st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_any_bytes(data: bytes, sizes: list[int]) -> None:
    try:
        found = parse(data, sizes)
    except ProtocolError:
        return
    assert data.startswith(b"".join(message.pack() for message in found))


def test_the_longest_message() -> None:
    longest = Message(1, 2, 3, b"x" * 4096)
    assert parse(longest.pack(), [4112]) == [longest]
    with pytest.raises(ProtocolError, match="4097 bytes"):
        Parser().feed(struct.pack("<4I", 1, 2, 3, 4097))


text = st.sampled_from(
    b" / /a a /a/b /local/domain/1/a @releaseDomain @ T F n1 r0 b2 1 0 -1 99999999999 set nodes "
    b"check quota".split(b" ")
)
payloads = st.binary(max_size=40) | st.lists(text, max_size=4).map(
    lambda strings: b"".join(each + b"\0" for each in strings)
)
requests = st.builds(
    Message,
    st.integers(0, 27) | words,
    words,
    st.integers(0, 3) | words,
    payloads,
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), requests), max_size=30))
def test_each_request_gets_one_answer(sent: list[tuple[bool, Message]]) -> None:
    """From domain 0 and from a guest; none of them breaks the store."""
    daemon = Xenstored()
    daemon.introduce(1, 0, 1)
    guest = daemon.domains[1].connection
    assert guest is not None
    privileged = daemon.connect()
    for of_guest, message in sent:
        connection = guest if of_guest else privileged
        if message.type == abi.XS_CONTROL and message.payload.startswith((b"log", b"mem")):
            continue  # these write files
        if connection.ignored:
            continue  # domain 0 has released it
        connection.receive(message.pack())
        answers = []
        while connection.output:
            output = connection.output[0].message
            connection.sent()
            assert len(output.payload) <= abi.XENSTORE_PAYLOAD_MAX
            if output.type != abi.XS_WATCH_EVENT:
                answers.append(output)
        (answer,) = answers
        assert (answer.request, answer.transaction) == (message.request, message.transaction)
        if answer.type == abi.XS_ERROR:
            assert unpack(answer.payload)[0] in abi.XSD_ERRORS
        else:
            assert answer.type == message.type
    assert Peer(daemon.connect()).call(abi.XS_CONTROL, "check") == ["OK"]


def test_strings() -> None:
    assert unpack(pack("a", "", "b")) == ["a", "", "b"]
    for bad in ("a\0b", "\xe9"):
        with pytest.raises(StoreError, match="EINVAL"):
            pack(bad)


def test_a_directory_that_changes_while_its_parts_are_read() -> None:
    parts = DirectoryParts()
    parts.add(b"7\0a\0b\0")
    assert (parts.size, parts.complete) == (4, False)
    parts.add(b"8\0d\0\0")
    assert (parts.size, parts.complete) == (0, False)
    parts.add(b"8\0a\0c\0d\0\0")
    assert parts.complete
    assert parts.names() == ["a", "c", "d"]
    empty = DirectoryParts()
    empty.add(b"9\0\0")
    assert (empty.complete, empty.names()) == (True, [])
