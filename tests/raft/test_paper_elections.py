"""The Raft paper ("In Search of an Understandable Consensus Algorithm", extended version): 5.1 terms, 5.2 elections,
5.6 timing. Each test is named for what the paper says.
"""

from __future__ import annotations

import itertools
import random

import pytest

from fastkv.raft import CANDIDATE, FOLLOWER, LEADER, PRE_CANDIDATE, RaftConfig
from fastkv.raft.messages import (
    APPEND,
    APPEND_REPLY,
    HEARTBEAT,
    HEARTBEAT_REPLY,
    KIND_NAMES,
    PRE_VOTE,
    PRE_VOTE_REPLY,
    SNAPSHOT,
    TIMEOUT_NOW,
    VOTE,
    VOTE_REPLY,
)
from tests.raft.alone import Alone, of_kind
from tests.raft.harness import Cluster

LEADERS_WORDS = (APPEND, HEARTBEAT, SNAPSHOT)


def in_role(role: int) -> Alone:
    """Member a in term 1, in that role."""
    member = Alone(1, check_quorum=False, pre_vote=role == PRE_CANDIDATE)
    if role == PRE_CANDIDATE:
        member.raft.campaign()
    elif role != FOLLOWER:
        member = Alone(check_quorum=False, pre_vote=False)
        member.raft.campaign()
    member.act()
    if role == LEADER:
        member.hear(VOTE_REPLY, "b", 1)
    assert (member.raft.role, member.raft.term) == (role, 1)
    return member


# -- 5.1: terms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [FOLLOWER, PRE_CANDIDATE, CANDIDATE, LEADER])
@pytest.mark.parametrize("kind", [k for k in KIND_NAMES if k not in (PRE_VOTE, PRE_VOTE_REPLY)], ids=KIND_NAMES.get)
def test_5_1_whoever_hears_of_a_later_term_moves_to_it_and_follows(role: int, kind: int) -> None:
    member = in_role(role)
    member.hear(kind, "c", 7, index=9, log_term=6)
    if kind == TIMEOUT_NOW:         # the leader of term 7 says: campaign
        assert (member.raft.role, member.raft.term) == (CANDIDATE, 8)
        return
    assert (member.raft.role, member.raft.term) == (FOLLOWER, 7)
    assert member.raft.vote == ("c" if kind == VOTE else "")
    assert member.raft.leader == ("c" if kind in LEADERS_WORDS else "")
    assert member.disk.hard_state.term == 7, "and remembers it"


@pytest.mark.parametrize("role", [FOLLOWER, PRE_CANDIDATE, CANDIDATE, LEADER])
@pytest.mark.parametrize("kind", KIND_NAMES, ids=KIND_NAMES.get)
def test_5_1_what_comes_from_an_earlier_term_is_refused(role: int, kind: int) -> None:
    member = in_role(role)
    member.raft.term = 3
    before = (member.raft.role, member.raft.vote, member.raft.leader, member.terms, member.raft.commit_index)
    member.act()
    said = member.hear(kind, "c", 2, index=1, log_term=1, commit=1, context=1)
    after = (member.raft.role, member.raft.vote, member.raft.leader, member.terms, member.raft.commit_index)
    assert (after, member.raft.term) == (before, 3)
    answers = {
        APPEND: HEARTBEAT_REPLY, HEARTBEAT: HEARTBEAT_REPLY, SNAPSHOT: HEARTBEAT_REPLY, TIMEOUT_NOW: HEARTBEAT_REPLY,
        VOTE: VOTE_REPLY, PRE_VOTE: PRE_VOTE_REPLY,
    }
    assert [message.kind for message in said] == ([answers[kind]] if kind in answers else [])
    for message in said:
        assert (message.term, message.to) == (3, "c"), "the sender hears of the later term"
        assert message.reject == (kind in (VOTE, PRE_VOTE))


@pytest.mark.parametrize("seed", range(20))
def test_5_1_terms_never_fall(seed: int) -> None:
    rng = random.Random(seed)
    member = Alone(1, 2, seed=seed)
    for _ in range(200):
        before = member.raft.term
        kind = rng.choice([PRE_VOTE, PRE_VOTE_REPLY, VOTE, VOTE_REPLY, HEARTBEAT_REPLY, APPEND_REPLY])
        member.hear(kind, rng.choice("bc"), max(0, before + rng.randint(-2, 2)), index=rng.randint(0, 3), log_term=2)
        if rng.random() < 0.2:
            member.tick(rng.randint(1, 30))
        assert member.raft.term >= before
        assert member.disk.hard_state.term == member.raft.term


def test_5_1_a_message_for_somebody_else_or_of_no_known_kind_changes_nothing() -> None:
    member = Alone(1)
    member.name = "b"               # the envelope says b
    assert member.hear(APPEND, "c", 9) == []
    member.name = "a"
    assert member.hear(99, "c", 1) == []
    assert (member.raft.term, member.raft.leader) == (1, "")


# -- 5.2: leader election ----------------------------------------------------------------------------------------------


def test_5_2_servers_start_as_followers() -> None:
    for member in (Alone(), Alone(1, 2), Alone(term=4, vote="a")):
        assert (member.raft.role, member.raft.leader) == (FOLLOWER, "")


@pytest.mark.parametrize("kind", LEADERS_WORDS, ids=KIND_NAMES.get)
def test_5_2_a_follower_stays_one_while_it_hears_its_leader(kind: int) -> None:
    member = Alone(1, pre_vote=False)
    for _ in range(30):
        member.hear(kind, "b", 1, index=1, log_term=1)
        member.tick(member.raft.config.election_ticks - 1)
        assert (member.raft.role, member.raft.term) == (FOLLOWER, 1)


@pytest.mark.parametrize("role", [FOLLOWER, CANDIDATE])
def test_5_2_a_timeout_begins_an_election(role: int) -> None:
    """It increments its term, votes for itself, and asks every other server."""
    member = in_role(role)
    said = member.tick(2 * member.raft.config.election_ticks - 1)
    assert (member.raft.role, member.raft.term, member.raft.vote) == (CANDIDATE, 2, "a")
    index = len(member.terms)
    assert [(m.kind, m.to, m.term, m.index, m.log_term) for m in said] == [
        (VOTE, "b", 2, index, index), (VOTE, "c", 2, index, index)
    ]
    assert member.disk.hard_state[:2] == (2, "a"), "its own vote too is one that it must not forget"


def test_5_2_a_leader_never_campaigns() -> None:
    member = in_role(LEADER)
    member.tick(100)
    member.raft.campaign()
    assert (member.raft.role, member.raft.term) == (LEADER, 1)


@pytest.mark.parametrize("count", range(1, 8))
def test_5_2_it_wins_with_the_votes_of_a_majority_and_loses_without_hope(count: int) -> None:
    others = "bcdefgh"[: count - 1]
    for votes in itertools.product((True, False, None), repeat=count - 1):
        member = Alone(1, others=others, pre_vote=False)
        member.campaign()
        for other, vote in zip(others, votes, strict=True):
            if vote is not None:
                member.hear(VOTE_REPLY, other, 2, reject=not vote)
        granted, refused = 1 + votes.count(True), votes.count(False)
        # Once it has won or lost, the rest comes too late to change anything.
        role = LEADER if 2 * granted > count else FOLLOWER if 2 * refused >= count else CANDIDATE
        assert (member.raft.role, member.raft.term) == (role, 2)


def test_5_2_a_voter_counts_once_and_a_stranger_not_at_all() -> None:
    member = Alone(others="bcde", pre_vote=False)
    member.campaign()
    for frm in "bbbxyz":
        member.hear(VOTE_REPLY, frm, 1)
    assert member.raft.role == CANDIDATE
    member.hear(VOTE_REPLY, "b", 1, reject=True)
    member.hear(VOTE_REPLY, "c", 1)
    assert member.raft.role == LEADER


@pytest.mark.parametrize(
    ("voted", "asks", "granted"),
    [("", "b", True), ("", "c", True), ("b", "b", True), ("c", "c", True), ("b", "c", False), ("a", "c", False)],
)
def test_5_2_one_vote_a_term_first_come_first_served(voted: str, asks: str, granted: bool) -> None:
    member = Alone(1, vote=voted)
    [answer] = member.hear(VOTE, asks, 1, index=1, log_term=1)
    assert (answer.kind, answer.to, answer.term, answer.reject) == (VOTE_REPLY, asks, 1, not granted)
    assert member.disk.hard_state[:2] == (1, asks if granted else voted)


@pytest.mark.parametrize("kind", LEADERS_WORDS, ids=KIND_NAMES.get)
@pytest.mark.parametrize("role", [PRE_CANDIDATE, CANDIDATE])
def test_5_2_a_candidate_follows_a_leader_of_its_term(role: int, kind: int) -> None:
    member = in_role(role)
    member.hear(kind, "c", member.raft.term)
    assert (member.raft.role, member.raft.leader) == (FOLLOWER, "c")


def test_5_2_a_candidate_goes_on_when_a_leader_of_an_earlier_term_speaks() -> None:
    member = in_role(CANDIDATE)
    said = member.hear(APPEND, "c", 0)
    assert (member.raft.role, member.raft.leader) == (CANDIDATE, "")
    assert [message.term for message in said] == [1]


def test_5_2_after_a_split_vote_it_tries_again_in_a_later_term() -> None:
    member = Alone(others="bcd", pre_vote=False)
    member.campaign()
    member.hear(VOTE_REPLY, "b", 1)
    member.hear(VOTE_REPLY, "c", 1, reject=True)
    assert member.raft.role == CANDIDATE
    said = member.tick(40)
    assert (member.raft.role, member.raft.term) == (CANDIDATE, 2)
    assert [message.to for message in of_kind(said, VOTE)] == ["b", "c", "d"]
    member.hear(VOTE_REPLY, "b", 1)
    member.hear(VOTE_REPLY, "d", 1)
    assert member.raft.role == CANDIDATE, "votes of the term before are none"


def test_5_2_two_votes_of_one_term_for_a_leader_that_has_been_heard_of_elsewhere() -> None:
    """Who follows the leader of its term cannot help another one of that term."""
    member = Alone(1)
    member.hear_leader("b", 1)
    [answer] = member.hear(VOTE, "c", 1, index=9, log_term=1)
    assert answer.reject
    assert member.raft.vote == ""


def test_5_2_whoever_wins_says_so_at_once_and_every_heartbeat_interval() -> None:
    member = Alone(1, pre_vote=False)
    member.campaign()
    said = member.hear(VOTE_REPLY, "b", 2)
    assert [(m.kind, m.to, m.term) for m in said] == [(APPEND, "b", 2), (APPEND, "c", 2)]
    said = member.tick(3 * member.raft.config.heartbeat_ticks)
    assert [(m.kind, m.to) for m in said] == 3 * [(HEARTBEAT, "b"), (HEARTBEAT, "c")]


def test_5_2_timeouts_are_random_over_one_to_two_election_timeouts() -> None:
    member = Alone(election_ticks=10, heartbeat_ticks=3, pre_vote=False)
    drawn = set()
    for _ in range(400):
        ticks, term = 0, member.raft.term
        while member.raft.term == term:
            member.tick()
            ticks += 1
        drawn.add(ticks)
    assert drawn == set(range(10, 20))


@pytest.mark.parametrize("size", [3, 5])
def test_5_2_few_elections_are_split(size: int) -> None:
    """Whoever has the shortest timeout is mostly alone with it."""
    rng, split, draws = random.Random(size), 0, 1000
    config = RaftConfig("a")
    for _ in range(draws):
        timeouts = sorted(config.election_ticks + rng.randrange(config.election_ticks) for _ in range(size))
        split += timeouts[0] == timeouts[1]
    assert split < 0.3 * draws
    cluster = Cluster(*"abcde"[:size], pre_vote=False)
    for _ in range(200):
        for name in cluster.names:
            cluster.ticks(name, 1)
        cluster.calm()
    assert sum(raft.role == LEADER for raft in cluster.rafts.values()) == 1
    assert max(raft.term for raft in cluster.rafts.values()) <= 3


def test_5_2_two_leaders_of_one_term_stop_the_node() -> None:
    """Election Safety is what everything rests on: where it is broken, nothing may be believed any more."""
    member = in_role(LEADER)
    with pytest.raises(AssertionError, match="c and a both lead term 1"):
        member.hear_leader("c", 1)


# -- 5.6: timing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("heartbeat", "election"), [(0, 10), (10, 10), (11, 10), (-1, 10)])
def test_5_6_a_heartbeat_is_shorter_than_an_election_timeout(heartbeat: int, election: int) -> None:
    with pytest.raises(ValueError, match="shorter than an election timeout"):
        RaftConfig("a", election_ticks=election, heartbeat_ticks=heartbeat)


def run(delay: int, ticks: int) -> Cluster:
    """Three members between which every message takes `delay` ticks."""
    cluster = Cluster("a", "b", "c", pre_vote=False, check_quorum=False)
    on_the_way: list[list[object]] = [[] for _ in range(delay)]
    for _ in range(ticks):
        for name in cluster.names:
            cluster.ticks(name, 1)
            cluster.sync(name)
        on_the_way.append(list(cluster.wire))
        cluster.wire.clear()
        for message in on_the_way.pop(0):
            cluster.rafts[message.to].step(message)  # type: ignore[attr-defined]
            cluster.settle(message.to)  # type: ignore[attr-defined]
    return cluster


def test_5_6_broadcasts_well_below_the_election_timeout_keep_one_leader() -> None:
    cluster = run(delay=4, ticks=100)
    term = max(raft.term for raft in cluster.rafts.values())
    again = run(delay=4, ticks=1000)
    assert {raft.term for raft in again.rafts.values()} == {term}, "there is no election after the first leader's"
    assert sorted(raft.role for raft in again.rafts.values()) == [FOLLOWER, FOLLOWER, LEADER]
    assert min(raft.commit_index for raft in again.rafts.values()) >= 1


def test_5_6_broadcasts_above_it_make_no_progress_and_no_harm() -> None:
    cluster = run(delay=50, ticks=2000)
    assert max(raft.term for raft in cluster.rafts.values()) > 10
    assert len({raft.term for raft in cluster.rafts.values() if raft.role == LEADER}) == sum(
        raft.role == LEADER for raft in cluster.rafts.values()
    )
