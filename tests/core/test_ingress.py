"""The door: what is taken into the open batches, and what is refused on the spot."""

from __future__ import annotations

import struct

import pytest

from fastkv._core.apply import Table
from fastkv._core.buffer import WriteBuffer
from fastkv._core.codes import Consistency, FrameFlag, Kind, Opcode, Status
from fastkv._core.entry import BatchBuilder, Entry, encode_command, encode_session
from fastkv._core.ingress import Ingress
from fastkv._core.replies import CallbackSink, Outbox, text_for

Answer = tuple[int, int, int, bytes]
VALUE_LIMIT = 1000
OPEN_LIMIT = 10_000


def get_body(key: bytes, consistency: int = Consistency.LINEARIZABLE) -> bytes:
    return struct.pack("<BBH", consistency, 0, len(key)) + key


def put_body(key: bytes, value: bytes = b"", **options: object) -> bytes:
    return encode_command(Kind.ENTRY_PUT, key, value, **options)  # type: ignore[arg-type]


def delete_body(key: bytes) -> bytes:
    return encode_command(Kind.ENTRY_DELETE, key)


class Door:
    """An ingress over an empty table, and the answers of those who asked."""

    def __init__(self) -> None:
        self.store: dict[bytes, bytes] = {}
        self.table = Table(self.store.get)
        self.wakes = 0
        self.ingress = Ingress(self.table, self.woken, value_limit_bytes=VALUE_LIMIT, open_limit_bytes=OPEN_LIMIT)
        self.outbox = Outbox()
        self.errors: list[BaseException] = []
        self.sink = CallbackSink(self.outbox, self.errors.append)

    def woken(self) -> None:
        self.wakes += 1

    def ask(self, opcode: int, body: bytes) -> list[Answer]:
        """Submit a request; the list gets its answer."""
        answers: list[Answer] = []
        self.ingress.submit(self.sink, self.sink.expect(lambda *answer: answers.append(answer)), opcode, body)
        return answers

    def ask_now(self, opcode: int, body: bytes) -> Answer:
        """Submit a request that is answered on the spot."""
        answers = self.ask(opcode, body)
        self.outbox.flush()
        assert len(answers) == 1
        return answers[0]

    def apply(self, key: bytes, value: bytes) -> bytes:
        builder = BatchBuilder()
        builder.append(Kind.ENTRY_PUT, put_body(key, value))
        self.table.apply(builder.take(), 0, 1, 1, WriteBuffer())
        record = self.table.get(key)
        assert record is not None
        return record

    def nothing_taken(self) -> bool:
        return self.ingress.take_writes() is None and self.ingress.take_reads() is None


@pytest.fixture
def door() -> Door:
    return Door()


# -- writes ----------------------------------------------------------------------------------------------------------


def test_writes_are_gathered_in_the_bytes_of_the_log(door: Door) -> None:
    bodies = [put_body(b"a", b"1"), put_body(b"b", b"2", compare=7)]
    for body in bodies:
        assert door.ask(Opcode.PUT, body) == []
    door.ask(Opcode.DELETE, delete_body(b"c"))
    taken = door.ingress.take_writes()
    assert taken is not None
    batch, waiters = taken
    assert batch.entries() == [
        Entry(Kind.ENTRY_PUT, bodies[0]),
        Entry(Kind.ENTRY_PUT, bodies[1]),
        Entry(Kind.ENTRY_DELETE, delete_body(b"c")),
    ]
    assert len(waiters) == 3
    assert door.ingress.take_writes() is None


def test_what_arrives_later_opens_the_next_batch(door: Door) -> None:
    first = door.ask(Opcode.PUT, put_body(b"a"))
    taken = door.ingress.take_writes()
    second = door.ask(Opcode.PUT, put_body(b"b"))
    assert taken is not None
    taken[1].fail(Status.NO_LEADER)
    door.outbox.flush()
    assert ([answer[0] for answer in first], second) == ([Status.NO_LEADER], [])
    taken = door.ingress.take_writes()
    assert taken is not None
    assert taken[0].entries() == [Entry(Kind.ENTRY_PUT, put_body(b"b"))]


def test_the_node_is_woken_once_a_turn(door: Door) -> None:
    for _ in range(5):
        door.ask(Opcode.PUT, put_body(b"a"))
        door.ask(Opcode.GET, get_body(b"a"))
        door.ingress.request_wake()
    assert door.wakes == 1
    door.ingress.asleep()
    door.ask(Opcode.GET, get_body(b"a"))
    assert door.wakes == 2


WRONG_WRITES = [
    (Opcode.PUT, b"", Status.INVALID_REQUEST),
    (Opcode.PUT, b"\1\0\0", Status.INVALID_REQUEST),
    (Opcode.PUT, b"\1\0\0\1k", Status.INVALID_REQUEST),
    (Opcode.PUT, b"\1\0\x08\0k", Status.INVALID_REQUEST),
    (Opcode.PUT, b"\2\0\0\0k", Status.INVALID_REQUEST),
    (Opcode.DELETE, b"\1\0\0\0kv", Status.INVALID_REQUEST),
    (Opcode.PUT, b"\0\0\0\0v", Status.INVALID_KEY),
    (Opcode.DELETE, b"\0\0\0\0", Status.INVALID_KEY),
    (Opcode.PUT, struct.pack("<HBB", 512, 0, 0) + bytes(512), Status.KEY_TOO_LARGE),
    (Opcode.PUT, put_body(b"k", bytes(VALUE_LIMIT + 1)), Status.VALUE_TOO_LARGE),
    (Opcode.PUT, put_body(b"k", lease=1), Status.UNSUPPORTED),
    (Opcode.PUT, put_body(b"k", session=(1, 2))[:12] + bytes(8) + b"k", Status.INVALID_REQUEST),
    (Opcode.DELETE, put_body(b"k", session=(1, 2))[:20], Status.INVALID_REQUEST),
    (Opcode.SESSION, b"", Status.INVALID_REQUEST),
    (Opcode.SESSION, b"\1" + bytes(6), Status.INVALID_REQUEST),
    (Opcode.SESSION, b"\1" + bytes(8), Status.INVALID_REQUEST),
    (Opcode.SESSION, bytes(8), Status.INVALID_REQUEST),
    (Opcode.SESSION, b"\1" + bytes(6) + b"\1", Status.INVALID_REQUEST),
    (Opcode.PUT, put_body(b"k", compare=0, lease=1), Status.UNSUPPORTED),
]


@pytest.mark.parametrize(("opcode", "body", "status"), WRONG_WRITES)
def test_a_wrong_write_is_refused_on_the_spot(door: Door, opcode: int, body: bytes, status: Status) -> None:
    assert door.ask_now(opcode, body) == (status, 0, 0, text_for(status))
    assert door.nothing_taken()


def test_a_session_is_opened_with_the_limit_of_this_node(door: Door) -> None:
    assert door.ask(Opcode.SESSION, b"\1" + bytes(7)) == []
    door.ingress.session_limit = 77
    assert door.ask(Opcode.SESSION, b"\1" + bytes(7)) == []
    taken = door.ingress.take_writes()
    assert taken is not None
    assert taken[0].entries() == [Entry(Kind.ENTRY_SESSION, encode_session(limit)) for limit in (4096, 77)]


def test_a_session_is_a_write(door: Door) -> None:
    door.ingress.refuse_writes = Status.NO_SPACE
    assert door.ask_now(Opcode.SESSION, b"\1" + bytes(7))[0] == Status.NO_SPACE
    assert door.nothing_taken()


def test_writes_of_sessions_and_with_idempotency_keys_are_taken_as_they_are(door: Door) -> None:
    bodies = [put_body(b"k", b"v", session=(7, 1), compare=3), put_body(b"k", session=(2**63, 0))]
    for body in bodies:
        assert door.ask(Opcode.PUT, body) == []
    taken = door.ingress.take_writes()
    assert taken is not None
    assert taken[0].entries() == [Entry(Kind.ENTRY_PUT, body) for body in bodies]


def test_the_largest_key_and_value_are_taken(door: Door) -> None:
    assert door.ask(Opcode.PUT, put_body(b"k" * 511, bytes(VALUE_LIMIT))) == []
    assert not door.nothing_taken()


def test_a_full_batch_refuses_and_the_next_one_takes_again(door: Door) -> None:
    body = put_body(b"k", bytes(995))  # 1000 bytes, 1008 as an entry
    answers = [door.ask(Opcode.PUT, body) for _ in range(12)]
    door.outbox.flush()
    taken = door.ingress.take_writes()
    assert taken is not None
    assert len(taken[1]) == taken[0].count == 9
    assert taken[0].nbytes <= OPEN_LIMIT
    refused = (Status.OVERLOADED, 0, 0, text_for(Status.OVERLOADED))
    assert answers == [[]] * 9 + [[refused]] * 3
    assert door.ask(Opcode.PUT, body) == []


def test_one_write_is_always_taken_however_small_the_limit() -> None:
    door = Door()
    door.ingress = Ingress(door.table, door.woken, value_limit_bytes=VALUE_LIMIT, open_limit_bytes=10)
    assert door.ask(Opcode.PUT, put_body(b"k", bytes(100))) == []
    assert door.ask_now(Opcode.PUT, put_body(b"k", bytes(100)))[0] == Status.OVERLOADED


def test_writes_are_refused_while_the_node_says_so(door: Door) -> None:
    door.ingress.refuse_writes = Status.NO_SPACE
    assert door.ask_now(Opcode.PUT, put_body(b"k")) == (Status.NO_SPACE, 0, 0, text_for(Status.NO_SPACE))
    assert door.ask_now(Opcode.PUT, b"")[0] == Status.INVALID_REQUEST  # wrong whatever the disk
    assert door.ask(Opcode.GET, get_body(b"k")) == []  # reads go on
    door.ingress.refuse_writes = Status.OK
    assert door.ask(Opcode.PUT, put_body(b"k")) == []


@pytest.mark.parametrize(
    ("opcode", "body"),
    [
        (Opcode.PUT, b""),
        (Opcode.GET, b""),
        (Opcode.GET, get_body(b"")),
        (Opcode.GET, get_body(b"k", Consistency.STALE_READ)),
    ],
)
def test_an_answer_on_the_spot_wakes_the_node_to_send_it(door: Door, opcode: int, body: bytes) -> None:
    """Else it would lie in the outbox until something else happens."""
    door.ask(opcode, body)
    assert (len(door.outbox), door.wakes) == (1, 1)


@pytest.mark.parametrize("opcode", [Opcode.SCAN, Opcode.PING, 0])
def test_other_requests_do_not_come_this_way(door: Door, opcode: int) -> None:
    with pytest.raises(ValueError, match="neither GET, PUT, DELETE nor SESSION"):
        door.ingress.submit(door.sink, 1, opcode, b"")


# -- reads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("consistency", [Consistency.LINEARIZABLE, Consistency.LEASE_READ])
def test_reads_are_served_together_from_the_state_of_that_moment(door: Door, consistency: int) -> None:
    door.apply(b"a", b"old")
    answers = [door.ask(Opcode.GET, get_body(key, consistency)) for key in (b"a", b"missing", b"k" * 511, b"a")]
    batch = door.ingress.take_reads()
    assert batch is not None
    assert len(batch) == 4
    record = door.apply(b"a", b"new")
    long_record = door.apply(b"k" * 511, bytes(VALUE_LIMIT))
    batch.serve(door.table)
    door.outbox.flush()
    found = (Status.OK, 0, 0, record)
    assert answers == [[found], [(Status.KEY_NOT_FOUND, 0, 0, b"")], [(Status.OK, 0, 0, long_record)], [found]]


def test_reads_that_a_lease_may_serve_are_a_batch_of_their_own_or_join_the_others(door: Door) -> None:
    for key, consistency in ((b"a", Consistency.LEASE_READ), (b"b", Consistency.LINEARIZABLE)) * 2:
        door.ask(Opcode.GET, get_body(key, consistency))
    unleased = door.ingress.take_unleased_reads()
    assert unleased is not None
    assert len(unleased) == 2
    assert door.ingress.take_unleased_reads() is None
    late = door.ask(Opcode.GET, get_body(b"b"))
    record = door.apply(b"b", b"value")
    everything = door.ingress.take_reads()
    assert everything is not None
    assert len(everything) == 3
    assert door.ingress.take_lease_reads() is None
    everything.serve(door.table)
    door.outbox.flush()
    assert late == [(Status.OK, 0, 0, record)]
    last = door.ask(Opcode.GET, get_body(b"a", Consistency.LEASE_READ))
    leased = door.ingress.take_lease_reads()
    assert leased is not None
    leased.serve(door.table)
    door.outbox.flush()
    assert last == [(Status.KEY_NOT_FOUND, 0, 0, b"")]


def test_reads_that_cannot_be_confirmed_fail_together(door: Door) -> None:
    answers = [door.ask(Opcode.GET, get_body(b"a")) for _ in range(3)]
    statuses: list[int] = []
    door.ingress.add_read_task(lambda: pytest.fail("it was not confirmed"), statuses.append)
    batch = door.ingress.take_reads()
    assert batch is not None
    assert len(batch) == 4
    batch.fail(Status.TIMEOUT)
    door.outbox.flush()
    assert answers == [[(Status.TIMEOUT, 0, 0, text_for(Status.TIMEOUT))]] * 3
    assert statuses == [Status.TIMEOUT]


def test_a_task_alone_makes_a_batch(door: Door) -> None:
    served: list[str] = []
    door.ingress.add_read_task(lambda: served.append("scan"), lambda status: pytest.fail("it was confirmed"))
    assert door.wakes == 1
    batch = door.ingress.take_reads()
    assert batch is not None
    batch.serve(door.table)
    assert served == ["scan"]
    assert door.ingress.take_reads() is None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", Status.INVALID_REQUEST),
        (b"\0\0\1", Status.INVALID_REQUEST),
        (b"\0\0\1\0", Status.INVALID_REQUEST),
        (b"\0\0\1\0kk", Status.INVALID_REQUEST),
        (b"\0\0\2\0k", Status.INVALID_REQUEST),
        (b"\3\0\1\0k", Status.INVALID_REQUEST),
        (b"\0\1\1\0k", Status.INVALID_REQUEST),
        (b"\0\0\0\0", Status.INVALID_KEY),
        (b"\0\0\0\2" + bytes(512), Status.KEY_TOO_LARGE),
        (b"\2\0\0\0", Status.INVALID_KEY),
    ],
)
def test_a_wrong_read_is_refused_on_the_spot(door: Door, body: bytes, status: Status) -> None:
    assert door.ask_now(Opcode.GET, body) == (status, 0, 0, text_for(status))
    assert door.nothing_taken()


def test_too_many_open_reads_are_refused(door: Door) -> None:
    answers = [door.ask(Opcode.GET, get_body(b"k" * 500)) for _ in range(30)]
    door.outbox.flush()
    taken = sum(answer == [] for answer in answers)
    assert taken == OPEN_LIMIT // 502
    assert {answer[0][0] for answer in answers[taken:]} == {Status.OVERLOADED}
    assert door.ask_now(Opcode.GET, get_body(b"k", Consistency.STALE_READ))[0] == Status.KEY_NOT_FOUND  # needs no room
    batch = door.ingress.take_reads()
    assert batch is not None
    assert len(batch) == taken
    assert door.ask(Opcode.GET, get_body(b"k")) == []


@pytest.mark.parametrize("consistency", list(Consistency))
def test_reads_of_any_consistency_are_refused_while_the_node_says_so(door: Door, consistency: int) -> None:
    door.ingress.refuse_reads = Status.SHUTTING_DOWN
    refused = (Status.SHUTTING_DOWN, 0, 0, text_for(Status.SHUTTING_DOWN))
    assert door.ask_now(Opcode.GET, get_body(b"k", consistency)) == refused
    assert door.ask_now(Opcode.GET, b"")[0] == Status.INVALID_REQUEST
    assert door.nothing_taken()


def test_a_stale_read_is_answered_at_once_with_its_age(door: Door) -> None:
    record = door.apply(b"k", b"value")
    door.ingress.applied_index = 2**40 + 5
    door.ingress.age_ms = 1234
    prefix = struct.pack("<QII", 2**40 + 5, 1234, 0)
    found = door.ask_now(Opcode.GET, get_body(b"k", Consistency.STALE_READ))
    assert found == (Status.OK, FrameFlag.STALE, 0, prefix + record)
    missing = door.ask_now(Opcode.GET, get_body(b"none", Consistency.STALE_READ))
    assert missing == (Status.KEY_NOT_FOUND, FrameFlag.STALE, 0, prefix)
    assert door.nothing_taken()


def test_the_age_goes_on_while_the_node_does_not_run(door: Door) -> None:
    def said() -> int:
        prefix = door.ask_now(Opcode.GET, get_body(b"k", Consistency.STALE_READ))[3]
        return int(struct.unpack_from("<I", prefix, 8)[0])

    now_ns = 5_000_000
    door.ingress.clock = lambda: now_ns
    door.ingress.age_ms, door.ingress.aged_ns = 7, now_ns
    assert said() == 7
    now_ns += 60_000_000_000
    assert said() == 60_007
    now_ns += 1 << 62
    assert said() == 0xFFFF_FFFE
    door.ingress.age_ms = 0xFFFF_FFFF
    assert said() == 0xFFFF_FFFF, "nobody knows"


def test_a_stale_read_sees_what_only_the_store_has(door: Door) -> None:
    door.store[b"k"] = bytes(32) + b"stored"
    assert door.ask_now(Opcode.GET, get_body(b"k", Consistency.STALE_READ))[3][16:] == bytes(32) + b"stored"
