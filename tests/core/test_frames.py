"""The frame reader: whatever the stream is cut into, the frames are the same, and memory stays bounded."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkv._core.frames import FrameReader, FrameTooLarge, encode_frame
from tests.core.strategies import frames
from tests.reference import frames as twin

LIMIT_BYTES = 4 << 20
READ_BYTES = 65536

Way = Callable[[FrameReader, bytes], list[twin.Frame]]


def by_feed(reader: FrameReader, data: bytes) -> list[twin.Frame]:
    return reader.feed(data)


def by_buffer(reader: FrameReader, data: bytes) -> list[twin.Frame]:
    """As an event loop does it."""
    cut: list[twin.Frame] = []
    while data:
        room = reader.get_buffer(-1)
        nbytes = min(len(room), len(data))
        assert nbytes > 0
        room[:nbytes] = data[:nbytes]
        data = data[nbytes:]
        reader.received(nbytes)
        cut += reader.frames()
    return cut


ways = pytest.mark.parametrize("receive", [by_feed, by_buffer])


def encode_all(frames: list[twin.Frame]) -> bytes:
    return b"".join(map(twin.encode_frame, frames))


@settings(deadline=None)
@given(frames)
def test_frame_is_encoded_as_by_the_twin(frame: twin.Frame) -> None:
    assert encode_frame(*frame) == twin.encode_frame(frame)


@ways
def test_stream_split_at_every_point_gives_the_same_frames(receive: Way) -> None:
    sent = [(1, 0, 0, 1, b"abc"), (2, 0x80, 3, 2**64 - 1, b""), (3, 1, 65535, 0, b"x" * 50)]
    stream = encode_all(sent)
    for at in range(len(stream) + 1):
        reader = FrameReader(50)
        assert receive(reader, stream[:at]) + receive(reader, stream[at:]) == sent
        assert (reader.pending_bytes, reader.held_bytes) == (0, 0)


@ways
@settings(deadline=None, max_examples=200)
@given(sent=st.lists(frames, max_size=20), rest=st.binary(max_size=15), data=st.data())
def test_stream_cut_anywhere_gives_the_same_frames(
    receive: Way, sent: list[twin.Frame], rest: bytes, data: st.DataObject
) -> None:
    stream = encode_all(sent) + rest
    reader = FrameReader(60)
    got: list[twin.Frame] = []
    at = 0
    while at < len(stream):
        nbytes = data.draw(st.integers(1, 200))
        got += receive(reader, stream[at : at + nbytes])
        at += nbytes
    assert got == sent
    assert reader.pending_bytes == len(rest)


@ways
@settings(deadline=None, max_examples=300)
@given(stream=st.binary(max_size=200), limit_bytes=st.integers(0, 100))
def test_any_bytes_are_cut_as_by_the_twin(receive: Way, stream: bytes, limit_bytes: int) -> None:
    expected, rest, broken = twin.cut(stream, limit_bytes)
    reader = FrameReader(limit_bytes)
    if broken:
        with pytest.raises(FrameTooLarge, match="over the limit"):
            receive(reader, stream)
    else:
        assert receive(reader, stream) == expected
        assert reader.pending_bytes == len(rest)


def test_too_large_is_a_value_error_and_stays_one() -> None:
    assert issubclass(FrameTooLarge, ValueError)
    reader = FrameReader(10)
    header = twin.HEADER.pack(11, 1, 0, 0, 0)
    with pytest.raises(FrameTooLarge, match="11 bytes is over the limit of 10"):
        reader.feed(header)
    for again in (reader.frames, reader.get_buffer, lambda: reader.feed(b"more")):
        with pytest.raises(FrameTooLarge):
            again()
    assert reader.held_bytes <= 26


def test_limit_may_be_raised_on_the_way() -> None:
    reader = FrameReader(10)
    big = (1, 0, 0, 0, bytes(1000))
    assert by_buffer(reader, encode_all([(1, 0, 0, 0, b"hello")])) == [(1, 0, 0, 0, b"hello")]
    reader.limit_bytes = 1000
    assert by_buffer(reader, encode_all([big])) == [big]


def test_what_cannot_have_been_received_is_refused() -> None:
    reader = FrameReader(100)
    for nbytes in (-1, 1):
        with pytest.raises(ValueError, match="cannot have been received"):
            reader.received(nbytes)
    room = len(reader.get_buffer())
    with pytest.raises(ValueError, match="cannot have been received"):
        reader.received(room + 1)
    reader.received(room)


# -- memory ----------------------------------------------------------------------------------------------------------


def test_a_quiet_connection_holds_no_memory() -> None:
    reader = FrameReader(LIMIT_BYTES)
    assert reader.held_bytes == 0
    for nbytes in (0, 100, READ_BYTES, 3 << 20):
        by_buffer(reader, encode_frame(1, 0, 0, 0, bytes(nbytes)))
        assert reader.held_bytes == 0


def test_an_announced_length_alone_gets_no_memory() -> None:
    reader = FrameReader(1 << 30)
    by_buffer(reader, twin.HEADER.pack(1 << 30, 1, 0, 0, 0))
    assert len(reader.get_buffer()) > 0
    assert reader.held_bytes == READ_BYTES


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1 << 20), st.integers())
def test_memory_stays_in_proportion_to_what_was_received(nbytes: int, seed: int) -> None:
    rng = random.Random(seed)
    frame = (1, 0, 0, 0, rng.randbytes(nbytes))
    stream = memoryview(twin.encode_frame(frame) + b"rest")
    reader = FrameReader(LIMIT_BYTES)
    got: list[twin.Frame] = []
    while stream:
        before = reader.pending_bytes
        room = reader.get_buffer(-1)
        assert reader.held_bytes <= max(READ_BYTES, 4 * before)
        part = min(len(room), len(stream), rng.randint(1, 200_000))
        room[:part] = stream[:part]
        stream = stream[part:]
        reader.received(part)
        got += reader.frames()
    assert got == [frame]


def test_before_hello_there_is_room_for_one_small_frame_only() -> None:
    reader = FrameReader(4096)
    assert len(reader.get_buffer()) == 4096 + 16
    assert len(FrameReader(0).get_buffer()) == 16
    assert len(FrameReader(-1).get_buffer()) == 16


def test_frames_that_nobody_takes_do_not_pile_up() -> None:
    reader = FrameReader(100)
    room = reader.get_buffer()
    sent = [(1, 0, 0, 0, bytes(100))]
    room[:] = encode_all(sent)
    reader.received(len(room))
    with pytest.raises(BufferError, match="have not been taken"):
        reader.get_buffer()
    assert reader.frames() == sent


def test_a_view_outlives_the_memory_it_was_given_for() -> None:
    reader = FrameReader(LIMIT_BYTES)
    views = []
    for size in (10, READ_BYTES, 1 << 20):
        for _ in range(3):
            views.append(reader.get_buffer())
            by_buffer(reader, encode_frame(1, 0, 0, 0, bytes(size)))
    for number, view in enumerate(views):
        view[:] = bytes([number]) * len(view)
    assert [view[-1] for view in views] == list(range(len(views)))


# -- as the event loops use it ---------------------------------------------------------------------------------------


class Receiver(asyncio.BufferedProtocol):
    def __init__(self) -> None:
        self.reader = FrameReader(LIMIT_BYTES)
        self.got: list[twin.Frame] = []
        self.closed = asyncio.get_running_loop().create_future()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.reader.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        self.reader.received(nbytes)
        self.got += self.reader.frames()
        self.held_bytes = self.reader.held_bytes

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set_result(error)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_receives_for_an_event_loop(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    rng = random.Random(7)
    sent = [(1, 2, 3, i, rng.randbytes(rng.choice([0, 10, 5000, 70_000, 2_000_000]))) for i in range(60)]

    async def transfer() -> Receiver:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        _, receiver = await loop.create_connection(Receiver, sock=ours)
        _, writer = await asyncio.open_connection(sock=theirs)
        for frame in sent:
            writer.write(encode_frame(*frame))
            await writer.drain()
        writer.close()
        assert await receiver.closed is None
        return receiver

    with asyncio.Runner(loop_factory=new_loop) as runner:
        receiver = runner.run(transfer())
    assert receiver.got == sent
    assert receiver.held_bytes == 0
