"""Exactly once: sessions, idempotency keys, their eviction, and what checkpoints keep of them."""

from __future__ import annotations

import random
import struct

import pytest

from fastkv._core.apply import CorruptEntry, Table
from fastkv._core.buffer import WriteBuffer
from fastkv._core.codes import SESSION_WINDOW, FrameFlag, Kind, Status
from fastkv._core.entry import BatchBuilder, encode_command, encode_session
from fastkv._core.idempotency import IdempotencyKeys
from fastkv._core.sessions import Sessions
from fastkv._core.state_hash import hash_of
from tests.reference.sessions import KEYS_KEPT
from tests.reference.state_machine import State

Entry = tuple[int, bytes]
KEY = 2**63 + 12345
"""The first half of an idempotency key."""


def open_session(limit: int = 4096) -> Entry:
    return Kind.ENTRY_SESSION, encode_session(limit)


def put(session: int, sequence: int, key: bytes = b"k", value: bytes = b"", compare: int | None = None) -> Entry:
    return Kind.ENTRY_PUT, encode_command(Kind.ENTRY_PUT, key, value, compare=compare, session=(session, sequence))


def delete(session: int, sequence: int, key: bytes = b"k") -> Entry:
    return Kind.ENTRY_DELETE, encode_command(Kind.ENTRY_DELETE, key, session=(session, sequence))


class Life:
    """A table beside its twin, over a store that is two dictionaries, from which it can begin anew."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.sessions: dict[bytes, bytes] = {}
        self.table = Table(self.records.get)
        self.twin = State()
        self.log: list[Entry] = []
        self.saved = (0, 0, 0, 0)
        """Applied index, revision, keys and hash of what the store has."""

    def apply(self, *entries: Entry) -> list[tuple[int, int, int]]:
        """Status, flags and revision of each result."""
        self.log += entries
        results = self.apply_only(list(entries))
        assert results == self.twin.apply(entries)
        self.check()
        return [(status, flags, revision) for status, flags, _, _, revision in struct.iter_unpack("<HBBIQ", results)]

    def apply_only(self, entries: list[Entry], first_index: int = 0) -> bytes:
        builder, results = BatchBuilder(), WriteBuffer()
        for kind, body in entries:
            builder.append(kind, body)
        first_index = first_index or len(self.log) - len(entries) + 1
        self.table.apply(builder.take(), 0, len(entries), first_index, results)
        return results.take()

    def check(self) -> None:
        assert (self.table.revision, self.table.key_count) == (self.twin.revision, len(self.twin.records))
        assert self.table.session_count == len(self.twin.sessions.open_ones)
        assert self.table.state_hash == self.twin.state_hash

    def checkpoint(self) -> None:
        for key, record in self.table.take_session_changes():
            if record is None:
                del self.sessions[key]  # what was never saved is not deleted
            else:
                self.sessions[key] = record
        for key, record in self.table.rotate().items():
            if record is None:
                self.records.pop(key, None)
            else:
                self.records[key] = record
        self.table.flushed()
        self.saved = (len(self.log), self.table.revision, self.table.key_count, self.table.state_hash)

    def restart(self) -> None:
        """Begin with what the last checkpoint has, and replay the rest of the log."""
        applied, revision, key_count, state_hash = self.saved
        self.table = Table(self.records.get, revision, key_count, state_hash, self.sessions.items())
        assert self.table.state_hash == hash_of(self.records.items(), self.sessions.items())
        if rest := self.log[applied:]:
            self.apply_only(rest, applied + 1)
        self.check()


OK, MISSING, REFUSED, EXPIRED, WRONG = map(
    int,
    (Status.OK, Status.KEY_NOT_FOUND, Status.PRECONDITION_FAILED, Status.SESSION_EXPIRED, Status.INVALID_REQUEST),
)
CREATED = int(FrameFlag.CREATED)


# -- sessions --------------------------------------------------------------------------------------------------------


def test_a_session_is_named_by_its_entry() -> None:
    life = Life()
    assert life.apply((Kind.NOOP, b""), open_session(), open_session()) == [(OK, 0, 0), (OK, 0, 2), (OK, 0, 3)]
    assert life.table.session_count == 2


def test_a_command_that_comes_again_changes_nothing_and_is_answered_as_before() -> None:
    life = Life()
    life.apply(open_session())
    once = life.apply(put(1, 1, value=b"1"), put(1, 2, value=b"2"), delete(1, 3), delete(1, 4), put(1, 5, compare=7))
    assert once == [(OK, CREATED, 1), (OK, 0, 2), (OK, 0, 3), (MISSING, 0, 3), (REFUSED, 0, 0)]
    life.apply(put(1, 6, b"other"))
    again = life.apply(put(1, 1, value=b"1"), put(1, 2, value=b"2"), delete(1, 3), delete(1, 4), put(1, 5, compare=7))
    assert again == once
    assert life.table.get(b"k") is None
    assert life.table.revision == 4


def test_two_times_in_one_batch_is_once() -> None:
    life = Life()
    life.apply(open_session())
    assert life.apply(put(1, 1), put(1, 1), put(1, 1)) == [(OK, CREATED, 1)] * 3


def test_sequences_come_in_any_order() -> None:
    life = Life()
    life.apply(open_session())
    rng = random.Random(3)
    order = rng.sample(range(1, 901), 900)
    first = life.apply(*(put(1, sequence, b"%d" % sequence) for sequence in order))
    assert first == [(OK, CREATED, number) for number in range(1, 901)]
    assert life.apply(*(put(1, sequence, b"%d" % sequence) for sequence in order)) == first


def test_a_session_that_was_never_opened_is_expired() -> None:
    life = Life()
    life.apply(open_session())
    assert life.apply(put(2, 1), put(0, 1), put(2**63 - 1, 1)) == [(EXPIRED, 0, 0)] * 3
    assert (life.table.revision, life.table.get(b"k")) == (0, None)


def test_what_is_too_old_to_know_is_expired() -> None:
    life = Life()
    life.apply(open_session())
    life.apply(put(1, 5), put(1, 6), put(1, 5 + SESSION_WINDOW))
    before = life.table.revision
    assert life.apply(put(1, 5), put(1, 1), put(1, 6)) == [(EXPIRED, 0, 0), (EXPIRED, 0, 0), (OK, 0, 2)]
    assert life.apply(put(1, 7)) == [(OK, 0, before + 1)]  # never seen, and within the window


def test_a_jump_leaves_everything_behind() -> None:
    life = Life()
    life.apply(open_session())
    life.apply(*(put(1, sequence) for sequence in range(1, 2000)))
    last = 2**63 - 1
    assert life.apply(put(1, last)) == [(OK, 0, 2000)]
    assert life.apply(put(1, last), put(1, 1999), put(1, last - SESSION_WINDOW)) == [
        (OK, 0, 2000), (EXPIRED, 0, 0), (EXPIRED, 0, 0)
    ]  # fmt: skip
    assert life.apply(put(1, last - SESSION_WINDOW + 1)) == [(OK, 0, 2001)]


def test_the_session_that_was_used_longest_ago_makes_room() -> None:
    life = Life()
    life.apply(open_session(3), open_session(3), open_session(3))
    life.apply(put(1, 1))
    life.apply(put(2, 1), put(1, 1))  # a retry is a use
    life.apply(open_session(3))  # 7, in place of 3
    assert [status for status, _, _ in life.apply(put(3, 1), put(1, 2), put(2, 2), put(7, 1))] == [EXPIRED, OK, OK, OK]
    life.apply(open_session(2))  # 12, in place of 1 and 2: two may be open from now on
    assert [status for status, _, _ in life.apply(put(7, 2), put(12, 1), put(2, 3), put(1, 3))] == [
        OK, OK, EXPIRED, EXPIRED
    ]  # fmt: skip


def test_many_sessions() -> None:
    life = Life()
    results = life.apply(*[open_session()] * 1000)
    assert [revision for _, _, revision in results] == list(range(1, 1001))
    assert {status for status, _, _ in life.apply(*(put(number, 1) for number in range(1, 1001)))} == {OK}


@pytest.mark.parametrize("body", [b"", b"\1" + bytes(6), b"\1" + bytes(7), b"\2\0\0\0\1\0\0\0", b"\1\0\0\0\1\0\1\0"])
def test_a_damaged_entry_stops_the_node(body: bytes) -> None:
    with pytest.raises(CorruptEntry, match="entry 1, of kind 17"):
        Life().apply((Kind.ENTRY_SESSION, body))


# -- idempotency keys ------------------------------------------------------------------------------------------------


def test_a_key_needs_no_session() -> None:
    life = Life()
    once = life.apply(put(KEY, 0, value=b"1"), delete(KEY, 1), delete(KEY, 2), put(KEY, 3, compare=9))
    assert once == [(OK, CREATED, 1), (OK, 0, 2), (MISSING, 0, 2), (REFUSED, 0, 0)]
    assert life.apply(put(KEY, 0, value=b"1"), delete(KEY, 1), delete(KEY, 2), put(KEY, 3, compare=9)) == once
    assert life.apply(put(KEY + 1, 0, value=b"1")) == [(OK, CREATED, 3)]  # both halves count


@pytest.mark.parametrize(
    "other",
    [
        put(KEY, 7, b"k", b"other"),
        put(KEY, 7, b"kv", b"alue"),
        put(KEY, 7, b"other", b"value"),
        put(KEY, 7, b"k", b"value", compare=0),
        delete(KEY, 7, b"k"),
    ],
)
def test_a_key_that_comes_with_another_command_is_a_mistake(other: Entry) -> None:
    life = Life()
    life.apply(put(KEY, 7, b"k", b"value"))
    assert life.apply(other) == [(WRONG, 0, 0)]
    assert life.apply(put(KEY, 7, b"k", b"value")) == [(OK, CREATED, 1)]
    assert life.table.revision == 1


def test_the_oldest_keys_are_forgotten_in_their_order() -> None:
    life = Life()
    builder = BatchBuilder()
    for number in range(KEYS_KEPT + 10):
        builder.append(*put(KEY, number, value=b"%d" % number))
    life.table.apply(builder.take(), 0, KEYS_KEPT + 10, 1)
    assert len(life.table.session_records()) == KEYS_KEPT
    revision = life.table.revision
    life.log = [(Kind.NOOP, b"")] * (KEYS_KEPT + 20)
    kept = life.apply_only([put(KEY, number, value=b"%d" % number) for number in range(10, 20)])
    assert life.table.revision == revision
    assert [struct.unpack_from("<HBBIQ", kept, at)[4] for at in range(0, 160, 16)] == list(range(11, 21))
    life.apply_only([put(KEY, number, value=b"%d" % number) for number in range(10)])
    assert life.table.revision == revision + 10
    records = life.table.session_records()
    assert len(records) == KEYS_KEPT
    assert records[0][0] == (2**63 + 21).to_bytes(8, "big")  # the key of entry 20 has just made room
    assert life.table.state_hash == hash_of(state_of(life.table, b"k"), records)


def state_of(table: Table, *keys: bytes) -> list[tuple[bytes, bytes]]:
    return [(key, record) for key in keys if (record := table.get(key)) is not None]


# -- checkpoints -----------------------------------------------------------------------------------------------------


def test_what_is_kept_is_what_the_twin_keeps() -> None:
    life = Life()
    life.apply(open_session(), open_session(), put(2, 3), put(2, 1), put(KEY, 5), put(1, 2000))
    assert dict(life.table.session_records()) == life.twin.sessions.records()


def test_only_what_has_changed_is_written_again() -> None:
    life = Life()
    life.apply(open_session(3), open_session(3), open_session(3), put(KEY, 1), put(1, 1))
    assert len(life.table.take_session_changes()) == 4
    assert life.table.take_session_changes() == []
    life.apply(put(1, 1), put(KEY, 2), put(KEY, 1))
    records = life.twin.sessions.records()
    assert life.table.take_session_changes() == [
        (name, records[name]) for name in (bytes(7) + b"\1", (2**63 + 7).to_bytes(8, "big"))
    ]
    life.apply(open_session(3), open_session(3))  # 9 and 10, in place of 2 and 3
    life.apply(open_session(1))  # 11, in place of all of them: two of which no checkpoint has
    changes = life.table.take_session_changes()
    assert changes[:3] == [(bytes(7) + bytes([number]), None) for number in (2, 3, 1)]
    assert [name for name, _ in changes[3:]] == [bytes(7) + b"\x0b"]


def random_entry(rng: random.Random, life: Life) -> Entry:
    dice = rng.random()
    if dice < 0.05:
        return open_session(rng.choice([3, 3, 5]))
    if dice < 0.1:
        return Kind.NOOP, b""
    known = list(life.twin.sessions.open_ones.values())
    key = rng.choice([b"a", b"b", b"c", b"longer" * 10])
    compare = rng.choice([None, None, 0, life.twin.revision])
    if dice < 0.3 and life.log:
        return rng.choice(life.log[-40:])  # again
    if dice < 0.45:
        session, sequence = KEY, rng.randrange(30)
    elif known and dice < 0.95:
        chosen = rng.choice(known)
        near = max(1, chosen.highest - rng.choice([0, 0, 3, 1000, 1030]))
        session, sequence = chosen.session_id, near + rng.choice([0, 1, 1, 2, 5, 700])
    else:
        session, sequence = rng.randint(0, len(life.log) + 3), rng.randint(1, 3)
    if rng.random() < 0.3:
        return delete(session, sequence, key)
    return put(session, sequence, key, bytes(rng.randrange(100)), compare)


@pytest.mark.parametrize("seed", range(25))
def test_any_life_is_the_twins(seed: int) -> None:
    """Retries, evictions, checkpoints and restarts from them: the same results, revision and hash as without any."""
    rng = random.Random(seed)
    life = Life()
    for _ in range(150):
        dice = rng.random()
        if dice < 0.85:
            life.apply(*(random_entry(rng, life) for _ in range(rng.randint(1, 3))))
        elif dice < 0.95:
            life.checkpoint()
            assert life.sessions == life.twin.sessions.records()
        else:
            life.restart()
    assert dict(life.table.session_records()) == life.twin.sessions.records()
    life.checkpoint()
    assert hash_of(life.records.items(), life.sessions.items()) == life.twin.state_hash


# -- bytes that are none ---------------------------------------------------------------------------------------------

GOOD = struct.pack("<QQ", 9, 3) + struct.pack("<HHIQ", 2, 0, 1, 5) + struct.pack("<HHIQ", 0, 2, 0, 6)


def test_a_record_is_taken_and_given_back() -> None:
    sessions = Sessions()
    sessions.load([(bytes(7) + b"\4", GOOD)])
    assert sessions.records() == [(bytes(7) + b"\4", GOOD)]


@pytest.mark.parametrize(
    ("name", "record"),
    [
        (bytes(7), GOOD),
        (bytes(8), GOOD[:-1]),
        (bytes(8), GOOD[:8]),
        (bytes(8), GOOD[:-16]),  # the highest sequence has no result
        (bytes(8), GOOD[:16] + GOOD[32:] + GOOD[16:32]),  # not in order
        (bytes(8), GOOD[:32] + GOOD[16:]),  # twice
        (bytes(8), struct.pack("<QQ", 9, 2) + GOOD[16:]),  # sequence 0
        (bytes(8), struct.pack("<QQ", 9, 5000) + struct.pack("<HHIQ", SESSION_WINDOW, 0, 0, 0) + GOOD[32:]),
    ],
)
def test_a_record_that_cannot_be_is_refused(name: bytes, record: bytes) -> None:
    with pytest.raises(ValueError, match="session"):
        Sessions().load([(name, record)])


@pytest.mark.parametrize(("name", "record"), [(b"\x80" + bytes(6), bytes(40)), (b"\x80" + bytes(7), bytes(39))])
def test_a_key_that_cannot_be_is_refused(name: bytes, record: bytes) -> None:
    with pytest.raises(ValueError, match="no idempotency key"):
        IdempotencyKeys().load([(name, record)])
