"""What nodes say to each other, as frames.

Raft's messages are plain values; this file turns one into a frame and back. The sender is not in the frame: a link
belongs to one node, whose id its HELLO said.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from xxhash import xxh3_64_intdigest

from fastkv._core.append import encode_append, parse_append
from fastkv._core.codes import Opcode
from fastkv._core.entry import EntryBatch
from fastkv._core.frames import encode_frame
from fastkv.log_types import Segment

RAFT_BODY = struct.Struct("<BBHIQQQQQQQQ")
FORWARD_HEADER = struct.Struct("<IIQ")
REJECT = 0x01

APPEND_KIND = 5
"""The kind of message that carries entries and therefore has an opcode of its own; raft.messages.APPEND."""


class MessageFields(Protocol):
    """What this file reads of a Raft message."""

    kind: int
    term: int
    index: int
    log_term: int
    commit: int
    reject: bool
    hint_index: int
    hint_term: int
    context: int
    low_water: int
    segments: list[Segment]


def encode_message(message: MessageFields) -> bytes:
    """The frame that carries a Raft message."""
    if message.kind == APPEND_KIND:
        batches = [(segment.term, segment.batch) for segment in message.segments]
        body = encode_append(
            message.term,
            message.index,
            message.log_term,
            message.commit,
            message.low_water,
            message.context,
            batches,
        )
        return encode_frame(Opcode.APPEND, 0, 0, 0, body)
    body = RAFT_BODY.pack(
        message.kind,
        REJECT if message.reject else 0,
        0,
        0,
        message.term,
        message.index,
        message.log_term,
        message.commit,
        message.hint_index,
        message.hint_term,
        message.context,
        message.low_water,
    )
    return encode_frame(Opcode.RAFT, 0, 0, 0, body)


def decode_append(sender: str, receiver: str, body: bytes, make: Callable[..., Any]) -> Any:
    """The message of an APPEND frame, made by `make(kind=…, frm=…, …)`. ValueError for anything else."""
    term, prev_index, prev_term, commit, low_water, context, batches = parse_append(body)
    segments = []
    index = prev_index + 1
    for batch_term, batch in batches:
        segments.append(Segment(index, batch_term, batch))
        index += batch.count
    return make(
        kind=APPEND_KIND,
        frm=sender,
        to=receiver,
        term=term,
        index=prev_index,
        log_term=prev_term,
        commit=commit,
        low_water=low_water,
        context=context,
        segments=segments,
    )


def decode_raft(sender: str, receiver: str, body: bytes, make: Callable[..., Any]) -> Any:
    """The message of a RAFT frame. ValueError for anything else."""
    if len(body) != RAFT_BODY.size:
        raise ValueError(f"a RAFT body has {RAFT_BODY.size} bytes, not {len(body)}")
    kind, flags, zero, more_zero, term, index, log_term, commit, hint_index, hint_term, context, low_water = (
        RAFT_BODY.unpack(body)
    )
    if flags & ~REJECT or zero or more_zero:
        raise ValueError("a RAFT body has reserved bits set")
    if kind == APPEND_KIND:
        raise ValueError("entries travel in APPEND frames")
    return make(
        kind=kind,
        frm=sender,
        to=receiver,
        term=term,
        index=index,
        log_term=log_term,
        commit=commit,
        reject=bool(flags & REJECT),
        hint_index=hint_index,
        hint_term=hint_term,
        context=context,
        low_water=low_water,
    )


def encode_forward(forward_id: int, batch: EntryBatch) -> bytes:
    """A batch of client commands on its way to the leader."""
    body = FORWARD_HEADER.pack(batch.count, batch.nbytes, batch.checksum) + batch.data
    return encode_frame(Opcode.FORWARD, 0, 0, forward_id, body)


def decode_forward(body: bytes) -> EntryBatch:
    """The batch of a FORWARD frame. ValueError for anything else.

    Every entry is checked to be a command: the leader will propose the batch as it is, and what a log holds every node
    has to be able to apply.
    """
    if len(body) < FORWARD_HEADER.size:
        raise ValueError("a FORWARD body ends within its header")
    count, nbytes, checksum = FORWARD_HEADER.unpack_from(body)
    if nbytes != len(body) - FORWARD_HEADER.size:
        raise ValueError(f"a FORWARD body announces {nbytes} bytes and holds {len(body) - FORWARD_HEADER.size}")
    batch = EntryBatch(body[FORWARD_HEADER.size :], count, checksum)
    batch.check_commands(len(body))     # the ingress of the node that took a command has held it to limits.value_bytes
    return batch


# -- snapshots ---------------------------------------------------------------------------------------------------------

SNAPSHOT_ASK_BODY = struct.Struct("<QQQQII")
SNAPSHOT_CHUNK_HEADER = struct.Struct("<QQQQQQHHI")


@dataclass(frozen=True, slots=True)
class SnapshotAsk:
    """Please send bytes of a snapshot: of the one with that index and checksum, or, with index 0, of any new enough."""

    min_index: int
    index: int
    checksum: int
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class SnapshotChunk:
    """Bytes of a snapshot, and which one it is."""

    index: int
    term: int
    total_bytes: int
    checksum: int
    kind: str
    offset: int
    data: bytes | memoryview
    """A view where it was received: nobody needs a copy of a quarter of a megabyte."""


def encode_snapshot_ask(ask: SnapshotAsk) -> bytes:
    """The frame that asks."""
    body = SNAPSHOT_ASK_BODY.pack(ask.min_index, ask.index, ask.checksum, ask.offset, ask.nbytes, 0)
    return encode_frame(Opcode.SNAPSHOT_ASK, 0, 0, 0, body)


def decode_snapshot_ask(body: bytes) -> SnapshotAsk:
    """What a SNAPSHOT_ASK frame asks for. ValueError for anything else."""
    if len(body) != SNAPSHOT_ASK_BODY.size:
        raise ValueError(f"a SNAPSHOT_ASK body has {SNAPSHOT_ASK_BODY.size} bytes, not {len(body)}")
    min_index, index, checksum, offset, nbytes, zero = SNAPSHOT_ASK_BODY.unpack(body)
    if zero or not nbytes or (offset and not index):
        raise ValueError("a SNAPSHOT_ASK body that asks for nothing that there can be")
    return SnapshotAsk(min_index, index, checksum, offset, nbytes)


def encode_snapshot_chunk(chunk: SnapshotChunk) -> bytes:
    """The frame that brings bytes of a snapshot."""
    kind = chunk.kind.encode()
    header = SNAPSHOT_CHUNK_HEADER.pack(
        chunk.index,
        chunk.term,
        chunk.total_bytes,
        chunk.checksum,
        chunk.offset,
        xxh3_64_intdigest(chunk.data),
        len(kind),
        0,
        len(chunk.data),
    )
    return encode_frame(Opcode.SNAPSHOT_CHUNK, 0, 0, 0, b"".join((header, kind, chunk.data)))


def encode_no_snapshot(status: int) -> bytes:
    """The frame that says that there is none: KEY_NOT_FOUND where it is gone or none is new enough, NO_SPACE."""
    return encode_frame(Opcode.SNAPSHOT_CHUNK, 0, status, 0, b"")


def decode_snapshot_chunk(body: bytes) -> SnapshotChunk:
    """What a SNAPSHOT_CHUNK frame brings. ValueError for anything else, and where the bytes are not those sent."""
    if len(body) < SNAPSHOT_CHUNK_HEADER.size:
        raise ValueError("a SNAPSHOT_CHUNK body ends within its header")
    index, term, total, checksum, offset, data_checksum, kind_bytes, zero, data_bytes = (
        SNAPSHOT_CHUNK_HEADER.unpack_from(body)
    )
    begin = SNAPSHOT_CHUNK_HEADER.size + kind_bytes
    if zero or len(body) != begin + data_bytes:
        raise ValueError(f"a SNAPSHOT_CHUNK body of {len(body)} bytes announces {begin + data_bytes}")
    data = memoryview(body)[begin:]
    if offset + data_bytes > total or xxh3_64_intdigest(data) != data_checksum:
        raise ValueError("a SNAPSHOT_CHUNK's bytes are not those that were sent")
    return SnapshotChunk(index, term, total, checksum, body[begin - kind_bytes : begin].decode(), offset, data)
