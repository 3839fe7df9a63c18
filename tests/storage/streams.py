"""Taking a stream of a store, as a client's connection does."""

from __future__ import annotations

import socket

from fastkv.storage.lmdb_stream import LmdbStream
from tests.storage.stores import Opened


def begin(opened: Opened) -> LmdbStream:
    """A stream that is ready."""
    answers: list[tuple[LmdbStream | None, BaseException | None]] = []
    opened.store.stream(lambda stream, error: answers.append((stream, error)))
    opened.run_one()
    ((stream, error),) = answers
    assert error is None
    assert stream is not None
    return stream


class Taker:
    """Who takes one: what it was told at the end is in `ends`."""

    def __init__(self, stream: LmdbStream) -> None:
        self.ends: list[BaseException | None] = []
        stream.on_end = self.ends.append
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(60)
        stream.send(theirs)

    def take(self, nbytes: int) -> bytes:
        """So many bytes, or fewer where there are no more."""
        parts = []
        while nbytes and (part := self.socket.recv(min(nbytes, 100_000))):
            parts.append(part)
            nbytes -= len(part)
        return b"".join(parts)


def take_all(opened: Opened, stream: LmdbStream) -> bytes:
    """Everything, up to the end of the connection."""
    taker = Taker(stream)
    with taker.socket:
        content = taker.take(stream.info.nbytes)
        while not taker.ends:
            opened.run_one()
        assert taker.ends == [None]
        assert taker.take(1) == b""
    return content
