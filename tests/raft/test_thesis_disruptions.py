"""Ongaro's thesis, 4.2.3 (servers that disturb: who hears a leader does not hear candidates) and 9.6 (pre-vote: who
cannot win does not raise the term). Each test is named for what the thesis says.
"""

from __future__ import annotations

import itertools

import pytest

from fastkv.raft import CANDIDATE, FOLLOWER, LEADER, PRE_CANDIDATE, Message, Remove
from fastkv.raft.messages import (
    APPEND,
    HEARTBEAT,
    KIND_NAMES,
    PRE_VOTE,
    PRE_VOTE_REPLY,
    SNAPSHOT,
    TIMEOUT_NOW,
    TRANSFERRED,
    VOTE,
    VOTE_REPLY,
)
from tests.raft.alone import Alone, of_kind, same
from tests.raft.harness import Cluster
from tests.raft.thesis import leader, state_of, voters

REQUESTS = pytest.mark.parametrize("kind", [PRE_VOTE, VOTE], ids=KIND_NAMES.get)

# -- 4.2.3: disruptive servers -----------------------------------------------------------------------------------------


@REQUESTS
@pytest.mark.parametrize("silent", range(14))
def test_4_2_3_within_an_election_timeout_of_hearing_a_leader_a_server_neither_votes_nor_moves_to_a_later_term(
    kind: int, silent: int
) -> None:
    member = Alone(1, election_ticks=7, heartbeat_ticks=2)
    member.hear_leader("b", 1)
    member.raft.election_timeout = 99
    member.tick(silent)
    before = state_of(member.raft)
    said = member.hear(kind, "c", 5, index=9, log_term=4)
    if silent < 7:
        assert (said, state_of(member.raft)) == ([], before)
    else:
        assert [m.kind for m in said] == [VOTE_REPLY if kind == VOTE else PRE_VOTE_REPLY]
        assert same(said[0]), "granted"
        assert member.raft.term == (5 if kind == VOTE else 1)


@pytest.mark.parametrize("heard", [APPEND, HEARTBEAT, SNAPSHOT], ids=KIND_NAMES.get)
def test_4_2_3_every_word_of_a_leader_counts(heard: int) -> None:
    member = Alone(1)
    member.tick(19)
    member.hear(heard, "b", 1, index=1, log_term=1)
    member.tick(19)
    assert member.hear(VOTE, "c", 5, index=9, log_term=4) == []
    assert member.raft.term == 1


def test_4_2_3_only_a_leader_s_words_count() -> None:
    member = Alone(1)
    for kind in (PRE_VOTE, PRE_VOTE_REPLY, VOTE, VOTE_REPLY):
        member.hear(kind, "b", 1, index=1, log_term=1, reject=True)
    [answer] = member.hear(VOTE, "c", 5, index=9, log_term=4)
    assert (answer.reject, member.raft.term) == (False, 5)


@REQUESTS
def test_4_2_3_a_leader_that_has_its_quorum_is_not_disturbed(kind: int) -> None:
    member = leader()
    before = state_of(member.raft)
    assert member.hear(kind, "c", 5, index=9, log_term=4) == []
    assert state_of(member.raft) == before


def test_4_2_3_a_leader_that_has_stepped_down_votes_at_once() -> None:
    """Also where it has been in office for less than an election timeout: nobody waits for its silence."""
    member = Alone(1)
    member.hear_leader("b", 1)
    member.hear(TIMEOUT_NOW, "b", 1)
    member.hear(VOTE_REPLY, "c", 2)
    assert member.raft.role == LEADER
    member.raft.step_down()
    [*_, answer] = member.hear(VOTE, "c", 3, index=9, log_term=2)
    assert (answer.kind, answer.reject, member.raft.term) == (VOTE_REPLY, False, 3)


@pytest.mark.parametrize("role", [FOLLOWER, LEADER])
def test_4_2_3_a_candidate_that_the_leader_itself_asked_to_campaign_is_heard(role: int) -> None:
    member = leader() if role == LEADER else Alone(1)
    if role == FOLLOWER:
        member.hear_leader("b", 1)
    assert member.hear(PRE_VOTE, "c", 2, index=1, log_term=1, context=TRANSFERRED) == [], "for votes, and not for plans"
    [answer] = member.hear(VOTE, "c", 2, index=1, log_term=1, context=TRANSFERRED)
    assert (answer.kind, answer.to, answer.reject) == (VOTE_REPLY, "c", False)
    assert (member.raft.role, member.raft.term, member.raft.vote) == (FOLLOWER, 2, "c")


def test_4_2_3_leave_to_disturb_is_no_leave_to_win_without_the_log() -> None:
    member = Alone(1, 1)
    member.hear_leader("b", 1)
    [answer] = member.hear(VOTE, "c", 2, index=1, log_term=1, context=TRANSFERRED)
    assert (answer.reject, member.raft.vote, member.raft.term) == (True, "", 2)


@REQUESTS
def test_4_2_3_a_server_that_has_just_started_may_have_answered_a_leader_and_waits_as_long(kind: int) -> None:
    cluster = Cluster("a", "b", "c")
    assert cluster.rafts["a"].since_leader == 20, "not so one that has never been in any term"
    cluster.elect("b")
    cluster.start("a")
    raft = cluster.rafts["a"]
    raft.election_timeout = 99
    for _ in range(20):
        raft.step(Message(kind, "c", "a", 2, index=1, log_term=1))
        assert not raft.has_ready()
        raft.tick()
    raft.step(Message(kind, "c", "a", 2, index=1, log_term=1))
    ready = raft.take_ready()
    assert [(m.to, m.reject) for m in ready.send_now + ready.send_after_persist] == [("c", False)]


def test_4_2_3_without_check_quorum_there_is_no_such_rule() -> None:
    """It rests on leaders that step down: else a leader that cannot be reached would be in office for ever."""
    member = Alone(1, check_quorum=False)
    member.hear_leader("b", 1)
    [answer] = member.hear(VOTE, "c", 5, index=9, log_term=4)
    assert (answer.reject, member.raft.term) == (False, 5)


@pytest.mark.parametrize("pre_vote", [False, True])
def test_4_2_3_a_removed_server_that_never_heard_of_it_cannot_depose_anybody(pre_vote: bool) -> None:
    cluster = Cluster("a", "b", "c", pre_vote=pre_vote)
    raft = cluster.elect("a")
    raft.change(Remove("c"))
    cluster.calm(without="c")
    assert raft.membership.voters == ("a", "b")
    removed = cluster.rafts["c"]
    for _ in range(60):
        for name in cluster.names:
            cluster.ticks(name, 5)
        cluster.calm()
    assert (raft.role, raft.term, cluster.rafts["b"].term) == (LEADER, 1, 1)
    assert removed.role == (PRE_CANDIDATE if pre_vote else CANDIDATE), "it asks on and on"
    assert removed.term == 1 if pre_vote else removed.term > 5


# -- 9.6: preventing disruptions when a server rejoins the cluster -----------------------------------------------------


def test_9_6_a_pre_candidate_asks_for_the_next_term_and_enters_none() -> None:
    member = Alone(1, 2)
    hard_state = member.disk.hard_state
    member.raft.campaign()
    now, later = member.decide()
    assert [(m.kind, m.to, m.term, m.index, m.log_term) for m in now] == [
        (PRE_VOTE, "b", 3, 2, 2), (PRE_VOTE, "c", 3, 2, 2)
    ]
    assert later == [], "it promises nothing, and waits for no disk"
    assert (member.raft.role, member.raft.term, member.raft.vote) == (PRE_CANDIDATE, 2, "")
    assert member.disk.under_way[0].hard_state is None
    assert member.disk.hard_state == hard_state


@pytest.mark.parametrize("own", [log for n in range(4) for log in itertools.combinations_with_replacement((1, 2), n)])
def test_9_6_a_server_would_vote_for_logs_that_are_as_up_to_date_and_in_terms_that_are_later(
    own: tuple[int, ...],
) -> None:
    """For all candidates' logs, and terms before, at and behind its own: no answer changes anything."""
    for length, last_term, term in itertools.product(range(4), range(3), range(1, 5)):
        member = Alone(*own, term=2, vote="c")
        before = state_of(member.raft)
        [answer] = member.hear(PRE_VOTE, "b", term, index=length, log_term=last_term)
        grant = term > 2 and (last_term, length) >= (own[-1] if own else 0, len(own))
        assert (answer.kind, answer.to, answer.reject) == (PRE_VOTE_REPLY, "b", not grant)
        assert answer.term == (term if grant else 2), "granted for that term; refused with the own, to be heard of"
        assert state_of(member.raft) == before


@pytest.mark.parametrize("count", range(1, 6))
def test_9_6_with_a_majority_s_promises_it_campaigns_and_else_changes_nobody_s_term(count: int) -> None:
    others = "bcde"[: count - 1]
    for answers in itertools.product((True, False, None), repeat=count - 1):
        member = Alone(1, others=others)
        member.raft.campaign()
        member.act()
        for other, answer in zip(others, answers, strict=True):
            if answer is not None:
                member.hear(PRE_VOTE_REPLY, other, 2 if answer else 1, reject=not answer)
        granted, refused = 1 + answers.count(True), answers.count(False)
        if 2 * granted > count:
            assert (member.raft.role, member.raft.term, member.raft.vote) == (CANDIDATE if others else LEADER, 2, "a")
        else:
            lost = 2 * (count - refused) <= count
            assert (member.raft.role, member.raft.term) == (FOLLOWER if lost else PRE_CANDIDATE, 1)


def test_9_6_promises_are_not_votes_and_votes_no_promises() -> None:
    member = Alone(1, others="bcde")
    member.raft.campaign()
    member.act()
    for other in "bc":
        member.hear(VOTE_REPLY, other, 1)
    assert member.raft.role == PRE_CANDIDATE
    for other in "bc":
        member.hear(PRE_VOTE_REPLY, other, 2)
    assert (member.raft.role, member.raft.term) == (CANDIDATE, 2)
    for other in "bcde":
        member.hear(PRE_VOTE_REPLY, other, 3)
    assert member.raft.role == CANDIDATE


def test_9_6_promises_for_an_earlier_campaign_are_none() -> None:
    member = Alone(1, others="bcde", term=4)
    member.raft.campaign()
    member.act()
    for other, term in zip("bcde", (6, 7, 9, 6), strict=True):
        member.hear(PRE_VOTE_REPLY, other, term)
    assert (member.raft.role, member.raft.term) == (PRE_CANDIDATE, 4)
    member.hear(PRE_VOTE_REPLY, "b", 5)
    member.hear(PRE_VOTE_REPLY, "c", 5)
    assert (member.raft.role, member.raft.term) == (CANDIDATE, 5)


def test_9_6_a_pre_candidate_that_is_refused_from_a_later_term_moves_to_it() -> None:
    member = Alone(1)
    member.raft.campaign()
    member.act()
    member.hear(PRE_VOTE_REPLY, "b", 9, reject=True)
    assert (member.raft.role, member.raft.term) == (FOLLOWER, 9)


def test_9_6_a_pre_candidate_that_hears_its_leader_again_follows_it_in_the_same_term() -> None:
    member = Alone(1)
    member.tick(40)
    assert member.raft.role == PRE_CANDIDATE
    member.hear_leader("b", 1)
    assert (member.raft.role, member.raft.leader, member.raft.term) == (FOLLOWER, "b", 1)
    member.hear(PRE_VOTE_REPLY, "b", 2)
    member.hear(PRE_VOTE_REPLY, "c", 2)
    assert (member.raft.role, member.raft.term) == (FOLLOWER, 1), "and what it was promised is forgotten"


@pytest.mark.parametrize("wrote", [False, True])
def test_9_6_a_server_that_was_cut_off_and_rejoins_does_not_raise_the_term(wrote: bool) -> None:
    cluster = Cluster("a", "b", "c")
    raft = cluster.elect("a")
    for _ in range(100):
        for name in cluster.names:
            cluster.ticks(name, 5)
        cluster.calm(without="c")
    if wrote:
        raft.propose(Alone(1).disk.segments[0].batch)
        cluster.calm(without="c")
    rejoined = cluster.rafts["c"]
    assert (rejoined.role, rejoined.term) == (PRE_CANDIDATE, 1)
    for _ in range(20):
        for name in cluster.names:
            cluster.ticks(name, 5)
        cluster.calm()
    assert {member.term for member in cluster.rafts.values()} == {1}
    assert (raft.role, rejoined.role, rejoined.leader) == (LEADER, FOLLOWER, "a")
    assert rejoined.log.last_index == raft.log.last_index


def test_9_6_only_voters_are_asked() -> None:
    member = Alone(1)
    member.disk.membership = voters("abc", learners="d")
    member.start()
    member.raft.campaign()
    assert [m.to for m in of_kind(member.act(), PRE_VOTE)] == ["b", "c"]
