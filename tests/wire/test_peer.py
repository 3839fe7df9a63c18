"""What nodes say: every message survives the way there and back, and nothing else is taken for one."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkv._core.codes import Kind, Opcode
from fastkv._core.entry import BatchBuilder, EntryBatch, encode_command, encode_session
from fastkv._core.frames import FrameReader
from fastkv.log_types import Segment
from fastkv.raft import messages
from fastkv.raft.messages import Message
from fastkv.wire.peer import (
    APPEND_KIND,
    FORWARD_HEADER,
    RAFT_BODY,
    decode_append,
    decode_forward,
    decode_raft,
    encode_forward,
    encode_message,
)
from tests.core.strategies import damaged, entry_lists, u8, u64

FIELDS = [name for name in Message.__slots__ if name != "segments"]
raft_messages = st.builds(
    Message,
    kind=st.integers(0, 255).filter(lambda kind: kind != APPEND_KIND),
    frm=st.just("node-1"),
    to=st.just("node-2"),
    term=u64,
    index=u64,
    log_term=u64,
    commit=u64,
    reject=st.booleans(),
    hint_index=u64,
    hint_term=u64,
    context=u64,
    low_water=u64,
)
commands = st.builds(
    lambda key, value: (Kind.ENTRY_PUT, encode_command(Kind.ENTRY_PUT, key, value)),
    st.binary(min_size=1, max_size=20),
    st.binary(max_size=30),
) | st.builds(
    lambda key, revision: (Kind.ENTRY_DELETE, encode_command(Kind.ENTRY_DELETE, key, compare=revision)),
    st.binary(min_size=1, max_size=20),
    u64,
)
command_lists = st.lists(commands, min_size=1, max_size=6)


def build(entries: Sequence[tuple[int, bytes]]) -> EntryBatch:
    builder = BatchBuilder()
    for kind, body in entries:
        builder.append(kind, body)
    return builder.take()


@st.composite
def append_messages(draw: st.DrawFn) -> Message:
    runs = draw(st.lists(entry_lists, max_size=4))
    terms = sorted(draw(st.lists(u64, min_size=len(runs) + 2, max_size=len(runs) + 2)))
    index = draw(st.integers(0, 2**63))
    message = Message(
        APPEND_KIND, "node-1", "node-2", terms[-1], index, terms[0],
        commit=draw(u64), context=draw(u64), low_water=draw(u64), segments=[],
    )  # fmt: skip
    for term, run in zip(terms[1:-1], runs, strict=True):
        message.segments.append(Segment(index + 1, term, build(run)))
        index += len(run)
    return message


def only_frame(data: bytes) -> tuple[int, int, int, int, bytes]:
    (frame,) = FrameReader(1 << 26).feed(data)
    return frame


def fields(message: Message) -> list[object]:
    return [getattr(message, name) for name in FIELDS]


@settings(deadline=None)
@given(raft_messages)
def test_raft_message_survives(message: Message) -> None:
    opcode, flags, code, request_id, body = only_frame(encode_message(message))
    assert (opcode, flags, code, request_id) == (Opcode.RAFT, 0, 0, 0)
    assert fields(decode_raft("node-1", "node-2", body, Message)) == fields(message)


@settings(deadline=None)
@given(append_messages())
def test_append_survives(message: Message) -> None:
    opcode, flags, code, request_id, body = only_frame(encode_message(message))
    assert (opcode, flags, code, request_id) == (Opcode.APPEND, 0, 0, 0)
    decoded = decode_append("node-1", "node-2", body, Message)
    assert fields(decoded) == fields(message)
    assert decoded.segments == message.segments


@settings(deadline=None)
@given(command_lists, u64)
def test_forwarded_batch_survives(entries: list[tuple[int, bytes]], forward_id: int) -> None:
    batch = build(entries)
    opcode, flags, code, request_id, body = only_frame(encode_forward(forward_id, batch))
    assert (opcode, flags, code, request_id) == (Opcode.FORWARD, 0, 0, forward_id)
    assert decode_forward(body) == batch


@settings(deadline=None, max_examples=300)
@given(
    damaged(raft_messages.map(lambda message: encode_message(message)[16:]))
    | damaged(append_messages().map(lambda message: encode_message(message)[16:]))
    | damaged(command_lists.map(lambda entries: encode_forward(1, build(entries))[16:]))
)
def test_damaged_bytes_are_refused_or_mean_something_else(body: bytes) -> None:
    try:
        message = decode_raft("a", "b", body, Message)
    except ValueError:
        pass
    else:
        assert encode_message(message)[16:] == body
    try:
        message = decode_append("a", "b", body, Message)
    except ValueError:
        pass
    else:
        assert encode_message(message)[16:] == body
    try:
        batch = decode_forward(body)
    except ValueError:
        pass
    else:
        assert encode_forward(1, batch)[16:] == body


def test_kinds_have_the_numbers_of_the_protocol() -> None:
    assert messages.APPEND == APPEND_KIND


@pytest.mark.parametrize(("at", "value"), [(1, 2), (1, 0x81), (2, 1), (3, 1), (4, 1), (7, 1), (0, APPEND_KIND)])
def test_raft_body_with_reserved_bits_or_the_wrong_kind_is_refused(at: int, value: int) -> None:
    body = bytearray(encode_message(Message(1, "a", "b", 1))[16:])
    body[at] = value
    with pytest.raises(ValueError, match=r"reserved bits|APPEND frames"):
        decode_raft("a", "b", bytes(body), Message)


@given(st.binary(max_size=100).filter(lambda body: len(body) != RAFT_BODY.size))
def test_raft_body_of_another_length_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="72 bytes"):
        decode_raft("a", "b", body, Message)


def forward_body(entries: list[tuple[int, bytes]], *, count: int | None = None, nbytes: int | None = None) -> bytes:
    batch = build(entries)
    count = batch.count if count is None else count
    nbytes = batch.nbytes if nbytes is None else nbytes
    return FORWARD_HEADER.pack(count, nbytes, batch.checksum) + batch.data


PUT = (Kind.ENTRY_PUT, encode_command(Kind.ENTRY_PUT, b"key", b"value"))
HOSTILE = {
    "nothing": b"",
    "half a header": bytes(15),
    "no entries": FORWARD_HEADER.pack(0, 0, 0),
    "more entries than bytes": forward_body([PUT], count=2**32 - 1),
    "a longer payload": forward_body([PUT], nbytes=2**32 - 1),
    "a shorter payload": forward_body([PUT], nbytes=3),
    "another checksum": forward_body([PUT])[:-1] + b"E",
    "an entry that no client may write": forward_body([PUT, (Kind.NOOP, b"")]),
    "a kind that nobody knows": forward_body([(200, b"")]),
    "half a command": forward_body([(Kind.ENTRY_PUT, PUT[1][:5])]),
    "a delete with a value": forward_body([(Kind.ENTRY_DELETE, PUT[1])]),
    "a key of 512 bytes": forward_body([(Kind.ENTRY_PUT, struct.pack("<HBB", 512, 0, 0) + bytes(512))]),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_forward_that_no_node_sends_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"FORWARD|batch|entry|command"):
        decode_forward(body)


@given(u8.filter(lambda kind: kind not in (Kind.ENTRY_PUT, Kind.ENTRY_DELETE, Kind.ENTRY_SESSION)))
def test_only_commands_are_forwarded(kind: int) -> None:
    with pytest.raises(ValueError, match="neither PUT, DELETE nor SESSION"):
        decode_forward(forward_body([(kind, PUT[1])]))


def test_openings_of_sessions_are_forwarded_whole_or_not_at_all() -> None:
    opening = encode_session(7)
    (entry,) = decode_forward(forward_body([(Kind.ENTRY_SESSION, opening)])).entries()
    assert (entry.kind, entry.body) == (Kind.ENTRY_SESSION, opening)
    for wrong in (b"", opening[:-1], opening + b"\0", b"\2" + opening[1:]):
        with pytest.raises(ValueError, match="command"):
            decode_forward(forward_body([(Kind.ENTRY_SESSION, wrong)]))
