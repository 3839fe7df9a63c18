"""A connection of the raw port, from received bytes to sent answers: what a node pays for a request beside the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from bench.micro.data import batch_of, numbers
from bench.micro.door import LIMIT_BYTES, SHAPES, Door, get_stream, put_stream
from bench.micro.measure import Measure
from fastkv._core.append import encode_append
from fastkv._core.codes import Opcode, Status
from fastkv._core.connection import Role
from fastkv._core.frames import encode_frame


@pytest.fixture(params=SHAPES, ids=[f"c{clients}x{depth}" for clients, depth in SHAPES])
def shape(request: pytest.FixtureRequest) -> tuple[int, int]:
    """Connections, and requests on each."""
    shape: tuple[int, int] = request.param
    return shape


@pytest.fixture
def door(shape: tuple[int, int]) -> Iterator[Door]:
    door = Door(shape[0])
    yield door
    door.close()


class Asking:
    """Requests of all clients at once, in each round for other keys; and their answers."""

    def __init__(self, door: Door, shape: tuple[int, int], stream_of: Callable[[list[int]], bytes]) -> None:
        self.door = door
        self.clients, self.depth = shape
        self.operations = self.clients * self.depth
        self.rounds = max(50, 4096 // self.operations)
        self._chosen = [
            [numbers(self.depth, seed=variant * self.clients + client) for client in range(self.clients)]
            for variant in range(self.rounds)
        ]
        self._streams = [[stream_of(chosen) for chosen in variant] for variant in self._chosen]
        self._asked = -1

    def streams(self) -> list[bytes]:
        """The next requests. The answers to those before are taken first."""
        if self._asked >= 0:
            self.check()
        self._asked += 1
        return self._streams[self._asked % len(self._streams)]

    def check(self) -> None:
        """Everybody has got the answers, in order."""
        chosen = self._chosen[self._asked % len(self._chosen)]
        expected = [(number, int(Status.OK)) for numbers in chosen for number in numbers]
        assert self.door.answers(self.depth) == expected


def bench_put(measure: Measure, door: Door, shape: tuple[int, int]) -> None:
    """Frames cut, checked and gathered, the batch applied, the answers written and sent: one `send` a connection."""
    asking = Asking(door, shape, put_stream)

    def turn(streams: list[bytes]) -> None:
        door.receive(streams)
        door.turn()

    measure.fresh(turn, asking.streams, operations=asking.operations, rounds=asking.rounds)
    asking.check()


def bench_get(measure: Measure, door: Door, shape: tuple[int, int]) -> None:
    """The same for linearizable reads, whose answers have the value in them."""
    asking = Asking(door, shape, get_stream)

    def turn(streams: list[bytes]) -> None:
        door.receive(streams)
        door.turn()

    measure.fresh(turn, asking.streams, operations=asking.operations, rounds=asking.rounds)
    asking.check()


def bench_receive_puts(measure: Measure, door: Door, shape: tuple[int, int]) -> None:
    """The first half of that: from received bytes to the open batch."""
    asking = Asking(door, shape, put_stream)
    streams = asking.streams()

    def setup() -> list[bytes]:
        door.ingress.asleep()
        door.ingress.take_writes()
        return streams

    def receive(streams: list[bytes]) -> bool:
        door.receive(streams)
        return True

    assert measure.fresh(receive, setup, operations=asking.operations, rounds=asking.rounds)
    taken = door.ingress.take_writes()
    assert taken is not None
    assert len(taken[1]) == asking.operations


def bench_receive_appends_of_a_peer(measure: Measure) -> None:
    """An AppendEntries of 16 entries, handed to the owner as bytes; for each."""
    door = Door(1)
    (connection,) = door.connections
    connection.become(Role.PEER, "b", LIMIT_BYTES)
    body = encode_append(3, 99, 3, 99, 90, 0, [(3, batch_of(16))])
    stream = encode_frame(Opcode.APPEND, 0, 0, 0, body) * 16

    def receive() -> int:
        before = door.peer_frames
        door.receive([stream])
        return door.peer_frames - before

    assert measure.repeat(receive, operations=16) == 16
    door.close()
