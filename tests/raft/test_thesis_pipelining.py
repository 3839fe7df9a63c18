"""Ongaro's thesis, 10.2.1: the leader writes its own disk in parallel to its followers', and sends them one batch after
another without waiting for answers; and 3.8: what a disk has promised. Each test is named for what the thesis says.
"""

from __future__ import annotations

import itertools

import pytest

from fastkv.log_types import HardState
from fastkv.raft import FOLLOWER, LEADER, InvariantBroken, Message
from fastkv.raft.messages import APPEND, APPEND_REPLY, HEARTBEAT, HEARTBEAT_REPLY, KIND_NAMES, READ_INDEX_REPLY
from fastkv.raft.progress import PROBE, REPLICATE
from tests.raft.alone import Alone, entry, of_kind
from tests.raft.harness import batch, run_of
from tests.raft.thesis import leader, state_of


def reply(frm: str, index: int) -> Message:
    return Message(APPEND_REPLY, frm, "a", 1, index=index)


# -- 10.2.1: writing to the leader's disk in parallel ------------------------------------------------------------------


def test_10_2_1_entries_go_to_the_followers_before_they_are_on_the_leader_s_disk() -> None:
    member = leader()
    member.raft.propose(batch("x"))
    now, later = member.decide()
    assert [(m.kind, m.to, m.segments[0].last_index) for m in now] == [(APPEND, "b", 2), (APPEND, "c", 2)]
    assert later == []
    assert (member.raft.log.last_index, member.raft.log.durable_index) == (2, 1)
    assert [s.last_index for ready in member.disk.under_way for s in ready.segments] == [2]


@pytest.mark.parametrize("names", ["a", "ab", "abc", "abcd", "abcde"])
def test_10_2_1_the_leader_s_copy_counts_from_when_its_disk_has_it_and_as_any_other(names: str) -> None:
    """Whatever the order in which the disks end: the entry is committed by the one that makes a majority."""
    for order in itertools.permutations(names):
        member = leader(names[1:])
        member.raft.propose(batch("x"))
        member.decide()
        for done, name in enumerate(order, 1):
            if name == "a":
                member.raft.persisted(2, 1)
            else:
                member.raft.step(reply(name, 2))
            assert member.raft.commit_index == (2 if 2 * done > len(names) else 1), order


def test_10_2_1_entries_may_be_committed_and_applied_by_the_followers_disks_alone() -> None:
    member = leader()
    member.raft.propose(batch("x"))
    member.decide()
    for peer in "bc":
        member.raft.step(reply(peer, 2))
    member.decide()
    assert (member.raft.commit_index, member.raft.applied_index, member.raft.log.durable_index) == (2, 2, 1)
    assert member.applied[-1].last_index == 2
    member.sync()
    assert (member.raft.commit_index, member.raft.log.durable_index) == (2, 2)


def test_10_2_1_of_several_writes_under_way_those_that_have_ended_count() -> None:
    member = leader()
    for key in "xyz":
        member.raft.propose(batch(key))
        member.decide()
    member.raft.step(reply("b", 4))
    assert member.raft.commit_index == 1
    for index in (2, 3, 4):
        member.raft.persisted(index, 1)
        assert (member.raft.log.durable_index, member.raft.commit_index) == (index, index)


def test_10_2_1_what_is_applied_was_committed_and_once() -> None:
    member = leader()
    member.propose("x")
    for index in (0, 2):
        with pytest.raises(InvariantBroken, match=f"applied {index}, before 1, committed 1"):
            member.raft.applied(index)


# -- 3.8: persisted state ----------------------------------------------------------------------------------------------


def test_3_8_what_another_leader_replaces_before_it_was_handed_out_is_never_written() -> None:
    member = Alone(1)
    member.raft.step(Message(APPEND, "b", "a", 2, index=1, log_term=1, segments=[run_of(2, 2, 4), run_of(6, 2)]))
    member.raft.step(Message(APPEND, "c", "a", 3, index=3, log_term=2, segments=[run_of(4, 3)]))
    ready = member.raft.take_ready()
    assert ready.segments == [run_of(2, 2, 2), run_of(4, 3)]
    assert ready.hard_state == HardState(3, "", 0)
    member.raft.persisted(4, 3)
    assert (member.raft.log.durable_index, member.terms) == (4, [1, 2, 2, 3])


def test_3_8_a_member_whose_disk_lacks_what_it_has_acknowledged_stops() -> None:
    """The leader says up to where it matches, and that all of that is committed."""
    member = Alone(1, 1, 1)
    member.raft.step(Message(HEARTBEAT, "b", "a", 1, index=3, commit=3))
    assert member.raft.commit_index == 3
    with pytest.raises(InvariantBroken, match="commit index 4 is behind the log's end 3"):
        member.raft.step(Message(HEARTBEAT, "b", "a", 1, index=4, commit=4))


# -- 10.2.1: pipelining ------------------------------------------------------------------------------------------------


def test_10_2_1_the_next_index_moves_on_with_what_is_sent() -> None:
    member = leader()
    for number in range(2, 12):
        said = member.propose("x")
        assert [(m.to, m.index, m.segments[-1].last_index) for m in said] == [
            ("b", number - 1, number), ("c", number - 1, number)
        ]
    progress = member.raft.progress["b"]
    assert (progress.match, progress.next) == (1, 12)


ENTRY_BYTES = batch("k").nbytes


@pytest.mark.parametrize("window", [1, ENTRY_BYTES, ENTRY_BYTES + 1, 3 * ENTRY_BYTES, 7 * ENTRY_BYTES - 1])
def test_10_2_1_what_is_under_way_is_bounded_in_bytes_and_each_answer_makes_room(window: int) -> None:
    """A window that is open takes one message more, so that an entry of any size gets through."""
    limit = -(-window // ENTRY_BYTES)
    member = leader(max_inflight_bytes=window, max_append_entries=1)
    sent = [m.segments[0].last_index for number in range(10) for m in member.propose("k") if m.to == "b"]
    assert sent == list(range(2, 2 + min(limit, 10)))
    acknowledged = 1
    for step in (1, 2, 1, 3, 3):
        acknowledged = min(acknowledged + step, sent[-1])
        said = [m for m in member.acknowledge("b", acknowledged) if m.kind == APPEND and m.to == "b"]
        assert [m.index for m in said] == [m.segments[0].first_index - 1 for m in said]
        sent += [m.segments[0].last_index for m in said]
        assert sent == list(range(2, min(acknowledged + limit, 11) + 1))
        assert member.raft.progress["b"].inflight_bytes == (sent[-1] - acknowledged) * ENTRY_BYTES


ON_DISK_BYTES = entry(1, 1).nbytes


@pytest.mark.parametrize(
    ("max_bytes", "max_entries", "each"),
    [(1 << 20, 4, 4), (3 * ON_DISK_BYTES, 99, 3), (3 * ON_DISK_BYTES + 1, 99, 3), (1, 99, 1), (1 << 20, 99, 8)],
)
def test_10_2_1_a_message_takes_as_many_entries_as_its_budgets_allow(
    max_bytes: int, max_entries: int, each: int
) -> None:
    member = Alone(*[1] * 7, pre_vote=False, max_append_bytes=max_bytes, max_append_entries=max_entries)
    member.lead()
    said = of_kind(member.acknowledge("b", 0), APPEND)
    sizes = [sum(segment.batch.count for segment in message.segments) for message in said]
    assert [message.index for message in said] == [sum(sizes[:at]) for at in range(len(sizes))]
    assert (sum(sizes), sizes[:-1]) == (8, [each] * (len(sizes) - 1))


def test_10_2_1_acknowledgements_may_come_in_any_order_and_old_ones_change_nothing() -> None:
    for order in itertools.permutations(range(2, 7)):
        member = leader()
        for _ in range(5):
            member.propose("x")
        newest = 1
        for index in order:
            before = state_of(member.raft)
            said = member.acknowledge("b", index)
            assert of_kind(said, APPEND) == [], "nothing is sent twice"
            if index < newest:
                assert state_of(member.raft) == before
            newest = max(newest, index)
            progress = member.raft.progress["b"]
            assert (progress.match, progress.next, member.raft.commit_index) == (newest, 7, newest)


def probing(state: str) -> Alone:
    """Leader a: b has two of its six entries, and what else is under way is lost."""
    member = leader()
    for number in range(5):
        member.propose("x")
        member.acknowledge("c", number + 2)
    member.acknowledge("b", 2)
    if state == "refused":
        [again] = member.hear(APPEND_REPLY, "b", 1, index=4, reject=True, hint_index=2, hint_term=1)
    else:
        member.raft.unreachable("b")
        [again] = member.act()
    assert (again.kind, again.to, again.index, again.segments[-1].last_index) == (APPEND, "b", 2, 6)
    return member


@pytest.mark.parametrize("state", ["refused", "unreachable"])
def test_10_2_1_after_a_refusal_or_a_lost_link_it_goes_back_to_what_is_certain_and_waits_for_an_answer(
    state: str,
) -> None:
    member = probing(state)
    progress = member.raft.progress["b"]
    assert (progress.state, progress.match, progress.next, progress.inflight_bytes) == (PROBE, 2, 3, 0)
    for _ in range(3):
        assert [m.to for m in member.propose("x")] == ["c"], "one message at a time"
    [again] = member.acknowledge("b", 6)
    assert (again.to, again.index, again.segments[-1].last_index) == ("b", 6, 9)
    assert progress.state == REPLICATE
    assert [m.to for m in member.propose("x")] == ["b", "c"]


@pytest.mark.parametrize("state", ["refused", "unreachable"])
def test_10_2_1_answers_to_what_was_sent_before_that_say_nothing_new(state: str) -> None:
    member = probing(state)
    before = state_of(member.raft)
    for index in (3, 5, 6):
        assert member.hear(APPEND_REPLY, "b", 1, index=index, reject=True, hint_index=1, hint_term=1) == []
    assert member.hear(APPEND_REPLY, "b", 1, index=1) == []
    assert state_of(member.raft) == before


def test_10_2_1_a_refusal_of_what_is_known_to_match_is_late() -> None:
    member = leader()
    member.propose("x", "y")
    member.acknowledge("b", 3)
    before = state_of(member.raft)
    for index in range(4):
        assert member.hear(APPEND_REPLY, "b", 1, index=index, reject=True) == []
    assert state_of(member.raft) == before


def test_10_2_1_a_probe_whose_answer_is_lost_is_followed_by_a_question_once_an_interval() -> None:
    member = probing("unreachable")
    for _ in range(3):
        member.tick(5)
        [question] = member.hear(HEARTBEAT_REPLY, "b", 1)
        assert (question.kind, question.to, question.index, question.segments) == (APPEND, "b", 2, [])
        assert member.hear(HEARTBEAT_REPLY, "b", 1) == []
    member.acknowledge("b", 6)
    member.tick(5)
    assert member.hear(HEARTBEAT_REPLY, "b", 1) == [], "all that was sent is acknowledged"


@pytest.mark.parametrize("index", [7, 8, 1 << 40])
def test_10_2_1_an_acknowledgement_of_what_the_leader_does_not_have_is_none(index: int) -> None:
    member = leader()
    member.propose(*"uvxyz")
    before = state_of(member.raft)
    assert member.acknowledge("b", index) == []
    assert state_of(member.raft) == before


@pytest.mark.parametrize("kind", [APPEND_REPLY, HEARTBEAT_REPLY, READ_INDEX_REPLY], ids=KIND_NAMES.get)
@pytest.mark.parametrize("role", [FOLLOWER, LEADER])
def test_10_2_1_answers_of_strangers_and_to_somebody_who_leads_no_more_change_nothing(kind: int, role: int) -> None:
    member = leader() if role == LEADER else Alone(1)
    member.propose("x") if role == LEADER else member.hear_leader("b", 1)
    before = state_of(member.raft)
    for reject in (False, True):
        frm = "x" if role == LEADER else "c"
        assert member.hear(kind, frm, 1, index=1, context=1, commit=9, reject=reject) == []
    assert state_of(member.raft) == before


def test_10_2_1_a_leader_that_would_send_what_follows_an_entry_it_does_not_have_stops() -> None:
    member = leader()
    member.raft.progress["b"].next = 9
    member.tick(5)
    with pytest.raises(InvariantBroken, match="entry 8 is neither in the log nor its base"):
        member.hear(HEARTBEAT_REPLY, "b", 1)


def test_10_2_1_a_broken_link_matters_to_a_leader_and_to_members_that_it_knows() -> None:
    for member in (leader(), Alone(1)):
        before = state_of(member.raft)
        member.raft.unreachable("x")
        if member.raft.role != LEADER:
            member.raft.unreachable("b")
        assert state_of(member.raft) == before
