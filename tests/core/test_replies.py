"""Answers: in the order of the requests, each once, and one that goes wrong harms no other."""

from __future__ import annotations

import struct
import sys
from typing import Any

import pytest

from fastkv._core.codes import FrameFlag, Opcode, Status
from fastkv._core.replies import CallbackSink, Outbox, Sink, Waiters, text_for

Answer = tuple[int, int, int, bytes]


def result(status: int, flags: int, revision: int) -> bytes:
    return struct.pack("<HBBIQ", status, flags, 0, 0, revision)


class Callers:
    """Requests of this process, and what they were answered, in order."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.errors: list[BaseException] = []
        self.answers: list[tuple[str, Answer]] = []
        self.sink = CallbackSink(self.outbox, self.errors.append)

    def expect(self, name: str) -> int:
        return self.sink.expect(lambda *answer: self.answers.append((name, answer)))

    def waiters(self, *named: str, opcode: int = Opcode.PUT) -> Waiters:
        waiters = Waiters()
        for name in named:
            waiters.append(self.sink, self.expect(name), opcode)
        return waiters


@pytest.fixture
def callers() -> Callers:
    return Callers()


# -- waiters ---------------------------------------------------------------------------------------------------------


def test_results_go_to_their_waiters_in_order(callers: Callers) -> None:
    waiters = callers.waiters("a", "b", "c")
    waiters.deliver(
        result(Status.OK, FrameFlag.CREATED, 7)
        + result(Status.PRECONDITION_FAILED, 0, 3)
        + result(Status.KEY_NOT_FOUND, 0, 7),
        0,
    )
    assert callers.answers == []  # not before the flush
    callers.outbox.flush()
    assert callers.answers == [
        ("a", (Status.OK, FrameFlag.CREATED, 7, b"")),
        ("b", (Status.PRECONDITION_FAILED, 0, 3, b"")),
        ("c", (Status.KEY_NOT_FOUND, 0, 7, b"")),
    ]


def test_results_may_come_in_parts(callers: Callers) -> None:
    waiters = callers.waiters("a", "b", "c", "d")
    waiters.deliver(result(Status.OK, 0, 1), 0)
    waiters.deliver(b"", 1)
    waiters.deliver(result(Status.OK, 0, 2) + result(Status.OK, FrameFlag.CREATED, 3), 1, FrameFlag.FORWARDED)
    waiters.fail(Status.OUTCOME_UNKNOWN, 3)
    callers.outbox.flush()
    assert callers.answers == [
        ("a", (Status.OK, 0, 1, b"")),
        ("b", (Status.OK, FrameFlag.FORWARDED, 2, b"")),
        ("c", (Status.OK, FrameFlag.CREATED | FrameFlag.FORWARDED, 3, b"")),
        ("d", (Status.OUTCOME_UNKNOWN, 0, 0, text_for(Status.OUTCOME_UNKNOWN))),
    ]


def test_a_result_that_says_no_is_answered_with_a_text(callers: Callers) -> None:
    waiters = callers.waiters("a", "b", "c")
    waiters.deliver(
        result(Status.SESSION_EXPIRED, 0, 0) + result(Status.INVALID_REQUEST, 0, 0) + result(Status.OK, 0, 4),
        0,
        FrameFlag.FORWARDED,
    )
    callers.outbox.flush()
    (_, expired), (_, reused), (_, done) = callers.answers
    assert expired == (Status.SESSION_EXPIRED, 0, 0, text_for(Status.SESSION_EXPIRED))
    assert reused[:3] == (Status.INVALID_REQUEST, 0, 0)
    assert b"came with another command" in reused[3]
    assert done == (Status.OK, FrameFlag.FORWARDED, 4, b"")


def test_a_new_session_is_a_number(callers: Callers) -> None:
    callers.waiters("a", opcode=Opcode.SESSION).deliver(result(Status.OK, 0, 123), 0)
    callers.outbox.flush()
    assert callers.answers == [("a", (Status.OK, 0, 123, b""))]


@pytest.mark.parametrize(("results", "start"), [(bytes(32), 2), (bytes(64), 0), (bytes(16), -1), (bytes(17), 0)])
def test_results_that_are_not_the_waiters(callers: Callers, results: bytes, start: int) -> None:
    waiters = callers.waiters("a", "b", "c")
    with pytest.raises(AssertionError, match="do not fit 3 waiters"):
        waiters.deliver(results, start)
    callers.outbox.flush()
    assert callers.answers == []


def test_failing_answers_everybody(callers: Callers) -> None:
    waiters = callers.waiters(*"abcdefghijklmnopqrstuvwxyz")
    assert len(waiters) == 26
    waiters.fail(Status.NO_LEADER)
    callers.outbox.flush()
    assert [name for name, _ in callers.answers] == list("abcdefghijklmnopqrstuvwxyz")
    assert {answer for _, answer in callers.answers} == {(Status.NO_LEADER, 0, 0, text_for(Status.NO_LEADER))}


def test_several_sinks_in_one_batch() -> None:
    one, other = Callers(), Callers()
    waiters = Waiters()
    for number in range(4):
        callers = (one, other)[number % 2]
        waiters.append(callers.sink, callers.expect(str(number)), Opcode.PUT)
    waiters.deliver(b"".join(result(Status.OK, 0, number) for number in range(4)), 0)
    one.outbox.flush()
    assert [name for name, _ in one.answers] == ["0", "2"]
    assert other.answers == []
    other.outbox.flush()
    assert [name for name, _ in other.answers] == ["1", "3"]


def test_waiters_own_their_sinks() -> None:
    callers = Callers()
    before = sys.getrefcount(callers.sink)
    waiters = callers.waiters("a", "b")
    during = sys.getrefcount(callers.sink)
    del waiters
    after = sys.getrefcount(callers.sink)
    assert (during, after) == (before + 2, before)


# -- the sink of callbacks -------------------------------------------------------------------------------------------


def test_a_callback_that_raises_harms_no_other(callers: Callers) -> None:
    waiters = callers.waiters("a")

    def broken(*answer: Any) -> None:
        raise ZeroDivisionError("a bug of this caller")

    waiters.append(callers.sink, callers.sink.expect(broken), Opcode.PUT)
    waiters.append(callers.sink, callers.expect("c"), Opcode.PUT)
    waiters.fail(Status.NO_LEADER)
    callers.outbox.flush()
    assert [name for name, _ in callers.answers] == ["a", "c"]
    assert [type(error) for error in callers.errors] == [ZeroDivisionError]


def test_an_answer_given_during_a_flush_is_flushed_too(callers: Callers) -> None:
    again = callers.expect("again")
    first = callers.sink.expect(lambda *answer: callers.sink.reply(again, Opcode.GET, Status.OK, 0, b"record"))
    callers.sink.reply(first, Opcode.GET, Status.OK, 0, b"")
    assert len(callers.outbox) == 1
    callers.outbox.flush()
    assert callers.answers == [("again", (Status.OK, 0, 0, b"record"))]
    assert len(callers.outbox) == 0


def test_a_flush_leaves_what_is_too_much_for_one_turn_of_the_loop() -> None:
    outbox = Outbox()
    answered: list[int] = []
    for number in range(2_500):
        sink = CallbackSink(outbox, pytest.fail)
        sink.reply(sink.expect(lambda *answer, n=number: answered.append(n)), Opcode.GET, Status.OK, 0, b"")
    assert outbox.flush()
    assert 1_000 <= len(answered) < 1_100
    assert outbox.flush()
    assert not outbox.flush()
    assert answered == list(range(2_500))


def test_a_sink_is_in_the_outbox_once(callers: Callers) -> None:
    for _ in range(5):
        callers.sink.reply(callers.expect("a"), Opcode.GET, Status.OK, 0, b"")
    assert len(callers.outbox) == 1
    callers.outbox.flush()
    assert len(callers.answers) == 5
    callers.sink.reply(callers.expect("a"), Opcode.GET, Status.OK, 0, b"")
    assert len(callers.outbox) == 1


def test_nobody_is_answered_twice(callers: Callers) -> None:
    request_id = callers.expect("a")
    callers.sink.reply(request_id, Opcode.GET, Status.OK, 0, b"")
    with pytest.raises(KeyError):
        callers.sink.reply(request_id, Opcode.GET, Status.OK, 0, b"")


def test_an_abstract_sink_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Sink"):
        Sink(Outbox()).reply(1, Opcode.GET, Status.OK, 0, b"")


# -- texts -----------------------------------------------------------------------------------------------------------

CARRY_MORE_THAN_A_TEXT = {Status.OK, Status.KEY_NOT_FOUND, Status.PRECONDITION_FAILED}
SAID_IN_THEIR_PLACE = {Status.UNSUPPORTED_VERSION, Status.FRAME_TOO_LARGE, Status.UNAUTHENTICATED, Status.WRONG_CLUSTER}


@pytest.mark.parametrize("status", sorted(set(Status) - CARRY_MORE_THAN_A_TEXT - SAID_IN_THEIR_PLACE))
def test_every_error_has_a_text(status: Status) -> None:
    assert text_for(status).decode().strip()


def test_the_texts_tell_what_was_done() -> None:
    """Correctness 28: "not done" and "unknown" are different answers."""
    for status in (Status.NO_LEADER, Status.NOT_LEADER, Status.OVERLOADED, Status.SHUTTING_DOWN):
        assert b"nothing was done" in text_for(status)
    assert b"may or may not" in text_for(Status.OUTCOME_UNKNOWN)
    assert text_for(12345) == b""
