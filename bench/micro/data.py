"""What is measured with: keys of 16 bytes, values of 128, tables of 100,000 keys; the same in every run.

Requests go to all keys of a table before one comes again, so that a figure has the cache misses in it that a node has.
A table that is asked for the same few thousand keys answers several times faster.
"""

from __future__ import annotations

import random
import struct
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import cycle, islice

from fastkv._core.apply import Table
from fastkv._core.buffer import WriteBuffer
from fastkv._core.codes import Kind
from fastkv._core.entry import BatchBuilder, EntryBatch, encode_command

KEYS = 100_000
KEY_BYTES = 16
VALUE_BYTES = 128
SIZES = (1, 16, 1024)
"""Entries in a batch: a quiet cluster's, one of a moderate load, and one of a full load."""

_RESULT = struct.Struct("<HBBIQ")
_VALUES = [random.Random(number).randbytes(VALUE_BYTES) for number in range(256)]


def key(number: int) -> bytes:
    """As the load generator makes them: all alike in their first bytes."""
    return b"key-%012d" % number


def value(number: int) -> bytes:
    """Bytes that do not repeat within one value."""
    return _VALUES[number % len(_VALUES)]


def put(number: int, *, compare: int | None = None, session: tuple[int, int] | None = None) -> bytes:
    """The body of a PUT of key `number`."""
    return encode_command(Kind.ENTRY_PUT, key(number), value(number), compare=compare, session=session)


def numbers(count: int, *, below: int = KEYS, seed: int = 1) -> list[int]:
    """Keys, chosen uniformly."""
    rng = random.Random(seed)
    return [rng.randrange(below) for _ in range(count)]


def distinct_numbers(count: int, *, first: int = 0, seed: int = 1) -> list[int]:
    """Different keys out of KEYS from `first` on, in random order."""
    return random.Random(seed).sample(range(first, first + KEYS), count)


@cache
def puts() -> tuple[bytes, ...]:
    """Bodies of PUTs, one of each key, in random order."""
    return tuple(map(put, distinct_numbers(KEYS, seed=2)))


def endless_puts() -> Iterator[bytes]:
    """The same, again and again."""
    return cycle(puts())


def endless_keys() -> Iterator[bytes]:
    """Every key of the table in random order, again and again."""
    return cycle(list(map(key, distinct_numbers(KEYS, seed=2))))


def batches_of(bodies: Iterable[bytes], size: int, kind: int = Kind.ENTRY_PUT) -> list[EntryBatch]:
    """Batches of `size` entries (the last one of the rest), just as the ingress makes them: not indexed yet."""
    builder = BatchBuilder()
    batches = []
    for body in bodies:
        builder.append(kind, body)
        if len(builder) == size:
            batches.append(builder.take())
    if len(builder):
        batches.append(builder.take())
    return batches


def batch_of(size: int) -> EntryBatch:
    """One batch of PUTs."""
    return batches_of(islice(puts(), size), size)[0]


def no_store(_: bytes) -> bytes | None:
    """A store without keys."""
    return None


@cache
def _filling() -> Sequence[EntryBatch]:
    # In an order that no benchmark asks in: it is the order in which the records lie in memory.
    return batches_of(map(put, distinct_numbers(KEYS, seed=0)), 1024)


class Applied:
    """A table that holds every key in its active memtable, and how far it has applied the log."""

    def __init__(self, table: Table | None = None) -> None:
        self.table = table or Table(no_store)
        self.index = 0
        self.results = WriteBuffer()
        if table is None:
            self.apply(_filling())

    def apply(self, batches: Iterable[EntryBatch]) -> list[bytes]:
        """Apply batches one after the other, as the node applies what is committed; the results of each."""
        taken = []
        for batch in batches:
            count = batch.count
            self.table.apply(batch, 0, count, self.index + 1, self.results)
            self.index += count
            taken.append(self.results.take())
        return taken


def statuses(results: Iterable[bytes]) -> Counter[int]:
    """How often each status is among results."""
    return Counter(status for part in results for status, *_ in _RESULT.iter_unpack(part))


def results_of(count: int) -> bytes:
    """Results of `count` overwrites that all succeeded."""
    return b"".join(_RESULT.pack(0, 0, 0, 0, revision) for revision in range(1, count + 1))


def exhaust(made: Iterable[object]) -> None:
    """Go through an iterator and keep nothing: with `map`, calls without an interpreted loop around them."""
    deque(made, maxlen=0)
