"""Ongaro's thesis, chapter 6: 6.2 (a leader that is cut off steps down), 6.4 (reads that are confirmed by a round of
heartbeats), 6.4.1 (leases). Each test is named for what the thesis says.
"""

from __future__ import annotations

import itertools

import pytest

from fastkv.raft import FOLLOWER, LEADER, NotLeader, ReadState
from fastkv.raft.messages import (
    HEARTBEAT,
    HEARTBEAT_REPLY,
    READ_INDEX,
    READ_INDEX_REPLY,
    VOTE,
)
from fastkv.raft.reads import WAITING_LIMIT
from tests.raft.alone import Alone, of_kind, same
from tests.raft.harness import batch
from tests.raft.thesis import all_acknowledge, leader, state_of

# -- 6.2: a leader without a majority ----------------------------------------------------------------------------------


def ticks_until_it_steps_down(member: Alone, last_heard: int) -> int:
    """One of two followers goes on answering until that tick; how many pass in all."""
    for ticks in range(1, 200):
        if ticks - 1 <= last_heard:
            member.hear(HEARTBEAT_REPLY, "b", 1)
        member.tick()
        if member.raft.role != LEADER:
            return ticks
    return 0


@pytest.mark.parametrize("last_heard", range(45))
def test_6_2_a_leader_steps_down_once_an_election_timeout_has_passed_without_a_majority(last_heard: int) -> None:
    """It looks once an election timeout: so that not a second one passes."""
    member = leader()
    election = member.raft.config.election_ticks
    ticks = ticks_until_it_steps_down(member, last_heard)
    assert ticks == next(t for t in itertools.count(election, election) if t - last_heard > election)
    assert election < ticks - last_heard <= 2 * election
    assert (member.raft.role, member.raft.term, member.raft.leader) == (FOLLOWER, 1, "")


def test_6_2_without_that_rule_it_leads_for_ever() -> None:
    assert ticks_until_it_steps_down(leader(check_quorum=False), 0) == 0
    assert ticks_until_it_steps_down(leader(""), 0) == 0, "and a single voter is its own majority"


def test_6_2_its_clients_are_not_kept_waiting() -> None:
    member = leader()
    member.propose("x")
    member.raft.read(1)
    member.tick(40)
    assert member.raft.role == FOLLOWER
    assert member.reads_failed == [1]
    with pytest.raises(NotLeader, match=r"^$"):
        member.raft.propose(batch("y"))
    assert member.terms == [1, 1], "what it has appended may still be committed, by another one"


# -- 6.4: processing read-only queries more efficiently ----------------------------------------------------------------


def begin(member: Alone, *contexts: int) -> int:
    """Reads are asked for, and share a round; its number."""
    for context in contexts:
        member.raft.read(context)
    beats = of_kind(member.act(), HEARTBEAT)
    assert [beat.to for beat in beats] == list(member.raft.peers)
    [number] = {beat.context for beat in beats}
    return number


def test_6_4_a_read_waits_until_an_entry_of_the_leader_s_term_is_committed() -> None:
    member = Alone(1, 1, commit=1, pre_vote=False)
    member.lead()
    member.raft.read(7)
    assert of_kind(member.act(), HEARTBEAT) == []
    for beat in member.tick(5):
        member.hear(HEARTBEAT_REPLY, beat.to, 2, context=beat.context)
    assert member.reads == [], "that it leads is confirmed, and what is committed not known"
    [*_, beat] = of_kind(member.acknowledge("b", 3), HEARTBEAT)
    assert member.reads == []
    member.hear(HEARTBEAT_REPLY, "c", 2, context=beat.context)
    assert member.reads == [ReadState(7, 3)]


def test_6_4_reads_need_a_majority_s_answers_to_a_round_that_began_after_they_were_asked_for() -> None:
    """Of five members, for all rounds that each of the others may have answered last (0 is none), and with late answers
    behind that.
    """
    for answered in itertools.product(range(4), repeat=4):
        member = leader("bcde")
        rounds = [0, *(begin(member, context) for context in (1, 2, 3))]
        assert rounds[1:] == sorted(set(rounds[1:]))
        for peer, number in zip("bcde", answered, strict=True):
            for late in (number, *range(number)):
                member.hear(HEARTBEAT_REPLY, peer, 1, context=rounds[late])
        expected = [context for context in (1, 2, 3) if 1 + sum(n >= context for n in answered) >= 3]
        assert [read.context for read in member.reads] == expected, answered


def test_6_4_answers_to_heartbeats_from_before_confirm_nothing() -> None:
    member = leader()
    before = [beat.context for beat in of_kind(member.tick(10), HEARTBEAT)]
    begin(member, 1)
    for peer, context in itertools.product("bc", before):
        member.hear(HEARTBEAT_REPLY, peer, 1, context=context)
    assert member.reads == []


def test_6_4_an_answer_counts_once_and_a_stranger_s_not_at_all() -> None:
    member = leader("bcde")
    number = begin(member, 1)
    for peer in ("b", "b", "b", "x", "y"):
        member.hear(HEARTBEAT_REPLY, peer, 1, context=number)
    assert member.reads == []
    member.hear(HEARTBEAT_REPLY, "e", 1, context=number)
    assert member.reads == [ReadState(1, 1)]


def test_6_4_all_reads_that_wait_share_one_round_and_those_behind_it_the_next() -> None:
    member = leader()
    first = begin(member, 1, 2, 3)
    member.raft.read(4)
    member.hear(HEARTBEAT_REPLY, "b", 1, context=first)
    assert member.reads == [ReadState(context, 1) for context in (1, 2, 3)]
    member.hear(HEARTBEAT_REPLY, "b", 1, context=first + 1)
    assert member.reads[3:] == [ReadState(4, 1)]


def test_6_4_the_read_index_is_what_was_committed_when_the_round_began() -> None:
    member = leader()
    number = begin(member, 1)
    member.propose("x")
    member.acknowledge("b", 2)
    assert member.raft.commit_index == 2
    later = begin(member, 2)
    member.hear(HEARTBEAT_REPLY, "b", 1, context=later)
    assert member.reads == [ReadState(1, 1), ReadState(2, 2)]
    assert later > number


def test_6_4_a_single_voter_needs_nobody() -> None:
    member = leader("")
    member.raft.read(1)
    member.act()
    assert member.reads == [ReadState(1, 1)]


# -- 6.4: reads on followers -------------------------------------------------------------------------------------------


def follower() -> Alone:
    """Member a has three entries, of which one is committed as far as it knows, and follows b in term 1."""
    member = Alone(1, 1, 1, commit=1)
    member.hear_append("b", 1, 3, 1, commit=1)
    return member


def test_6_4_a_follower_asks_the_leader_and_hears_what_is_committed() -> None:
    member = follower()
    member.raft.read(7)
    [question] = member.act()
    assert (question.kind, question.to, question.term) == (READ_INDEX, "b", 1)
    assert same(question, context=7)
    member.hear(READ_INDEX_REPLY, "b", 1, context=7, index=3, commit=3)
    assert member.reads == [ReadState(7, 3)]
    assert member.raft.commit_index == 3, "it need not wait to be told"


def test_6_4_it_takes_for_committed_only_what_it_knows_to_be_the_leader_s() -> None:
    member = Alone(1, 1, 1, commit=1)
    member.hear_append("b", 1, 2, 1, commit=1)
    member.raft.read(7)
    member.hear(READ_INDEX_REPLY, "b", 1, context=7, index=9, commit=9)
    assert (member.reads, member.raft.commit_index) == ([ReadState(7, 9)], 2)


def test_6_4_the_leader_confirms_a_follower_s_read_as_its_own() -> None:
    member = leader("bcde")
    assert [m.kind for m in member.hear(READ_INDEX, "c", 1, context=7)] == 4 * [HEARTBEAT]
    assert member.hear(HEARTBEAT_REPLY, "b", 1, context=1) == []
    [answer] = member.hear(HEARTBEAT_REPLY, "d", 1, context=1)
    assert (answer.kind, answer.to) == (READ_INDEX_REPLY, "c")
    assert same(answer, index=1, commit=1, context=7)
    assert member.reads == []


def test_6_4_an_answer_confirms_the_questions_before_it_too_whose_answers_may_be_lost() -> None:
    member = follower()
    for context in (4, 5, 6, 7):
        member.raft.read(context)
    member.hear(READ_INDEX_REPLY, "b", 1, context=6, index=3)
    assert member.reads == [ReadState(context, 3) for context in (4, 5, 6)]
    member.hear(READ_INDEX_REPLY, "b", 1, context=6, index=3)
    member.hear(READ_INDEX_REPLY, "b", 1, context=99, index=3)
    member.hear(READ_INDEX_REPLY, "c", 1, context=7, index=3)
    assert len(member.reads) == 3, "nobody asked, or not c"


def test_6_4_who_does_not_lead_answers_no_question() -> None:
    member = follower()
    before = state_of(member.raft)
    assert member.hear(READ_INDEX, "c", 1, context=7) == []
    assert state_of(member.raft) == before


def test_6_4_questions_that_wait_are_bounded() -> None:
    member = follower()
    for context in range(WAITING_LIMIT + 3):
        member.raft.read(context)
    member.act()
    assert member.reads_failed == [0, 1, 2], "the oldest are given back"
    new = Alone(pre_vote=False)
    new.lead()
    for context in range(WAITING_LIMIT):
        new.hear(READ_INDEX, "b", 1, context=context)
    new.raft.read(1)
    assert new.hear(READ_INDEX, "b", 1, context=5000) == []
    assert new.reads_failed == [1]


# -- 6.4: what becomes of reads when leadership moves ------------------------------------------------------------------


@pytest.mark.parametrize("how", ["later term", "no majority", "stepped down"])
def test_6_4_a_deposed_leader_gives_back_its_own_reads_and_answers_no_others(how: str) -> None:
    member = leader()
    number = begin(member, 1)
    member.hear(READ_INDEX, "b", 1, context=2)
    member.raft.read(3)
    if how == "later term":
        member.hear_leader("b", 2)
    elif how == "no majority":
        member.tick(40)
    else:
        member.raft.step_down()
        member.act()
    assert (member.reads, member.reads_failed) == ([], [1, 3])
    for peer, later in itertools.product("bc", range(5)):
        assert member.hear(HEARTBEAT_REPLY, peer, 1, context=number + later) == []
    assert member.reads == []
    member.tick(20)
    member.lead()
    all_acknowledge(member)
    said = member.hear(HEARTBEAT_REPLY, "c", member.raft.term, context=begin(member, 4))
    assert [read.context for read in member.reads] == [4], "nor when it leads again"
    assert of_kind(said, READ_INDEX_REPLY) == []


def test_6_4_a_leader_that_had_committed_nothing_gives_them_back_too() -> None:
    member = Alone(pre_vote=False)
    member.lead()
    member.raft.read(1)
    member.hear(READ_INDEX, "b", 1, context=2)
    member.hear_leader("b", 2)
    assert (member.reads, member.reads_failed) == ([], [1])


@pytest.mark.parametrize("how", ["later term", "timeout", "asked to vote"])
def test_6_4_a_follower_gives_its_reads_back_when_it_follows_that_leader_no_more(how: str) -> None:
    member = follower()
    member.raft.read(7)
    member.act()
    if how == "later term":
        member.hear_leader("c", 2)
    elif how == "timeout":
        member.tick(40)
    else:
        member.raft.since_leader = 20
        member.hear(VOTE, "c", 2, index=9, log_term=1)
    assert member.reads_failed == [7]
    member.hear_leader("b", member.raft.term + 1)
    member.hear(READ_INDEX_REPLY, "b", member.raft.term, context=7, index=3)
    assert (member.reads, member.reads_failed) == ([], [7])


# -- 6.4.1: using clocks to reduce messaging ---------------------------------------------------------------------------


def test_6_4_1_a_lease_is_counted_from_when_the_heartbeats_were_sent_and_holds_once_a_majority_has_answered() -> None:
    """Of three rounds, for all that each of the four others may have answered last."""
    sent = (0, 1000, 1300, 1900)
    for answered in itertools.product(range(4), repeat=4):
        member = leader("bcde", lease_ns=500)
        rounds = [0]
        for now in sent[1:]:
            member.raft.now_ns = now
            rounds.append(begin(member, now))
        member.raft.now_ns = 99_999
        for peer, number in zip("bcde", answered, strict=True):
            member.hear(HEARTBEAT_REPLY, peer, 1, context=rounds[number])
        confirmed = sorted((*answered, 3), reverse=True)[2]
        until = sent[confirmed] + 500 if confirmed else 1
        assert [member.raft.lease_holds(now) for now in (until - 1, until, until + 1)] == [confirmed > 0, False, False]


def test_6_4_1_regular_heartbeats_extend_it() -> None:
    member = leader(lease_ns=500)
    for now in range(1000, 5000, 300):
        member.raft.now_ns = now
        [*_, beat] = of_kind(member.tick(5), HEARTBEAT)
        member.hear(HEARTBEAT_REPLY, "b", 1, context=beat.context)
        assert (member.raft.lease_holds(now + 499), member.raft.lease_holds(now + 500)) == (True, False)


def test_6_4_1_it_is_no_use_before_an_entry_of_the_own_term_is_committed() -> None:
    member = Alone(1, commit=1, pre_vote=False, lease_ns=500)
    member.lead()
    [*_, beat] = of_kind(member.tick(5), HEARTBEAT)
    member.hear(HEARTBEAT_REPLY, "b", 2, context=beat.context)
    assert not member.raft.lease_holds(1)
    member.acknowledge("b", 2)
    assert member.raft.lease_holds(1)


def test_6_4_1_it_ends_with_the_term_of_office_and_another_one_begins_without() -> None:
    member = leader(lease_ns=500)
    number = begin(member, 1)
    begin(member, 2)
    member.hear(HEARTBEAT_REPLY, "b", 1, context=number)
    assert member.raft.lease_holds(1)
    member.hear_leader("b", 2)
    assert not member.raft.lease_holds(1)
    member.tick(20)
    member.lead()
    all_acknowledge(member)
    assert (member.raft.role, member.raft.commit_index) == (LEADER, member.raft.log.last_index)
    assert not member.raft.lease_holds(1)
    member.hear(HEARTBEAT_REPLY, "b", member.raft.term, context=number + 1)
    assert not member.raft.lease_holds(1), "rounds of the term before confirm nothing"
    member.hear(HEARTBEAT_REPLY, "b", member.raft.term, context=begin(member, 3))
    assert member.raft.lease_holds(1)


def test_6_4_1_followers_have_none_and_a_length_of_zero_means_none() -> None:
    assert not follower().raft.lease_holds(0)
    member = leader(lease_ns=0)
    before = state_of(member.raft)["lease"]  # type: ignore[index]
    member.hear(HEARTBEAT_REPLY, "b", 1, context=begin(member, 1))
    assert [member.raft.lease_holds(now) for now in (-1, 0, 1)] == [False, False, False]
    assert state_of(member.raft)["lease"] == before, "and nothing is noted down for it"  # type: ignore[index]


def test_6_4_1_a_single_voter_holds_it_by_itself() -> None:
    member = leader("", lease_ns=500)
    member.raft.now_ns = 1000
    begin_alone = member.tick(5)
    assert begin_alone == []
    assert (member.raft.lease_holds(1499), member.raft.lease_holds(1500)) == (True, False)
