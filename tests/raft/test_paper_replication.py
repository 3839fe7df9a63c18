"""The Raft paper, extended version: 5.3 log replication, 5.4 safety (figures 7 and 8), 5.5 crashes.

Each test is named for what the paper says. Logs are written as the terms of their entries.
"""

from __future__ import annotations

import itertools

import pytest

from fastkv.raft import CANDIDATE, FOLLOWER, LEADER, Message
from fastkv.raft.messages import APPEND, APPEND_REPLY, HEARTBEAT, HEARTBEAT_REPLY, VOTE, VOTE_REPLY
from tests.raft.alone import Alone, of_kind, same
from tests.raft.harness import Cluster, batch


def leader(*terms: int, others: str = "bc", **settings: int | bool) -> Alone:
    """Member a, just elected, with these entries and its own first one."""
    member = Alone(*terms, others=others, pre_vote=False, **settings)
    member.lead()
    return member


# -- 5.3: log replication ----------------------------------------------------------------------------------------------


def test_5_3_the_leader_appends_a_command_and_sends_it_to_everybody_in_parallel() -> None:
    member = leader()
    member.acknowledge("b", 1)
    member.acknowledge("c", 1)
    said = member.propose("x")
    assert member.terms == [1, 1]
    assert [(m.kind, m.to, m.index, m.log_term) for m in said] == [(APPEND, "b", 1, 1), (APPEND, "c", 1, 1)]
    assert all(m.segments[0].last_index == 2 for m in said)


@pytest.mark.parametrize("count", range(2, 8))
def test_5_3_an_entry_is_committed_once_a_majority_has_it(count: int) -> None:
    others = "bcdefg"[: count - 1]
    member = leader(others=others)
    for other in others:
        member.acknowledge(other, 1)
    member.propose("x")
    for holders, other in enumerate(others, 2):
        assert member.raft.commit_index == (2 if 2 * (holders - 1) > count else 1)
        member.acknowledge(other, 2)
    assert member.raft.commit_index == 2


def test_5_3_what_is_committed_commits_all_that_precedes_it_also_of_earlier_leaders() -> None:
    member = leader(1, 2, 2)
    member.acknowledge("b", 4)
    assert member.raft.commit_index == 4
    assert [s.term for s in member.applied] == [1, 2, 2, 3]


def test_5_3_followers_hear_of_the_commit_index_and_apply_in_log_order() -> None:
    member = Alone(1)
    member.hear_append("b", 1, 1, 1, 1, 1, commit=1)
    assert [s.first_index for s in member.applied] == [1]
    member.hear(HEARTBEAT, "b", 1, index=3, commit=3)
    assert [s.first_index for s in member.applied] == [1, 2, 3]


def test_5_3_the_leader_retries_for_ever_also_after_it_has_answered_the_client() -> None:
    member = leader()
    member.acknowledge("b", 1)
    assert member.raft.commit_index == 1
    for _ in range(20):
        said = member.tick(member.raft.config.heartbeat_ticks)
        assert of_kind(said, HEARTBEAT)
        said = member.hear(HEARTBEAT_REPLY, "c", 1, index=0, context=of_kind(said, HEARTBEAT)[-1].context)
        assert [(m.kind, m.to) for m in of_kind(said, APPEND)] == [(APPEND, "c")]
        member.hear(HEARTBEAT_REPLY, "b", 1, index=1)


@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize("log_term", range(4))
def test_5_3_the_consistency_check(index: int, log_term: int) -> None:
    """A follower takes entries only behind an entry that it has with the same term."""
    log = (1, 1, 2)
    member = Alone(*log, term=3)
    [answer] = member.hear_append("b", 3, index, log_term, 3)
    fits = (log_term == 0) if index == 0 else index <= len(log) and log[index - 1] == log_term
    assert answer.kind == APPEND_REPLY
    assert answer.reject == (not fits)
    if fits:
        assert answer.index == index + 1
        assert member.terms == [*log[:index], 3]
    else:
        assert member.terms == list(log)
        hint = answer.hint_index, answer.hint_term
        assert hint == (0, 0) or (hint[0] <= index and log[hint[0] - 1] == hint[1]), "where it may look next, truly"
        assert hint != (index, log_term)


LOGS = [log for size in range(5) for log in itertools.combinations_with_replacement((1, 2, 3), size)]


@pytest.mark.parametrize("own", LOGS, ids=str)
def test_5_3_conflicting_entries_are_deleted_and_all_that_follow_and_no_others(own: tuple[int, ...]) -> None:
    """Against the definition, for all logs of up to four entries, all leaders' logs, and all messages of theirs."""
    for leaders in LOGS:
        shared = next((at for at, (a, b) in enumerate(zip(own, leaders, strict=False)) if a != b), None)
        agreed = min(len(own), len(leaders)) if shared is None else shared
        for first in range(agreed + 1):
            for last in range(first, len(leaders) + 1):
                member = Alone(*own, term=3)
                prev_term = leaders[first - 1] if first else 0
                member.hear_append("b", 3, first, prev_term, *leaders[first:last])
                conflict = any(a != b for a, b in zip(own[:last], leaders[:last], strict=False))
                expected = leaders[:last] if conflict or last > len(own) else own
                assert tuple(member.terms) == expected, (leaders, first, last)


def test_5_3_the_leader_never_overwrites_or_deletes_its_own_entries() -> None:
    member = leader(1, 1)
    before = list(member.raft.log.slice(1, 1 << 20, 100))
    for message in [
        Message(APPEND_REPLY, "b", "a", 2, index=1, reject=True),
        Message(APPEND, "b", "a", 1, index=0),
        Message(HEARTBEAT, "b", "a", 1),
        Message(VOTE, "b", "a", 2, index=9, log_term=9),
    ]:
        member.raft.step(message)
        member.act()
    assert member.terms == [1, 1, 2]
    assert [s.batch.nbytes for s in member.raft.log.slice(1, 1 << 20, 2)] == [s.batch.nbytes for s in before][:2]


FIGURE_7 = {
    "a": (1, 1, 1, 4, 4, 5, 5, 6, 6),
    "b": (1, 1, 1, 4),
    "c": (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
    "d": (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
    "e": (1, 1, 1, 4, 4, 4, 4),
    "f": (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
}
FIGURE_7_LEADER = (1, 1, 1, 4, 4, 5, 5, 6, 6, 6)


@pytest.mark.parametrize("which", FIGURE_7)
def test_5_3_figure_7_whatever_a_follower_has_it_ends_with_the_leader_s_log(which: str) -> None:
    cluster = Cluster("x", "y", pre_vote=False)
    for name, terms in (("x", FIGURE_7_LEADER), ("y", FIGURE_7[which])):
        cluster.disks[name] = Alone(*terms, name=name, term=7).disk
        cluster.disks[name].membership = cluster.rafts[name].membership
        cluster.start(name)
    raft, follower = cluster.rafts["x"], cluster.rafts["y"]
    raft.campaign()
    cluster.sync("x")
    cluster.wire.clear()                # (c) and (d) would not vote for it; others have
    raft.step(Message(VOTE_REPLY, "y", "x", 8))
    cluster.settle("x")
    refusals = 0
    for _ in range(40):
        cluster.sync("x")
        cluster.sync("y")
        refusals += sum(m.reject for m in cluster.wire)
        if not cluster.wire:
            break
        cluster.deliver()
    assert [s.term for s in follower.log.slice(1, 1 << 20, 100) for _ in range(s.batch.count)] == [*FIGURE_7_LEADER, 8]
    assert raft.commit_index == 11
    assert refusals <= 3, "one message for each conflicting term, not for each entry"


# -- 5.4.1: election restriction ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", LOGS, ids=str)
def test_5_4_1_a_vote_goes_only_to_logs_that_are_as_up_to_date(own: tuple[int, ...]) -> None:
    """The later last term wins; with equal ones the longer log."""
    own_last = (own[-1] if own else 0, len(own))
    for candidate in LOGS:
        last = (candidate[-1] if candidate else 0, len(candidate))
        member = Alone(*own, term=3)
        [answer] = member.hear(VOTE, "b", 4, index=last[1], log_term=last[0])
        assert answer.reject == (last < own_last), candidate
        assert member.raft.vote == ("" if answer.reject else "b")


# -- 5.4.2: entries of earlier terms -----------------------------------------------------------------------------------


def test_5_4_2_only_entries_of_the_own_term_are_committed_by_counting() -> None:
    member = leader(1, 2)                # its own is entry 3
    for index in (1, 2):
        member.acknowledge("b", index)
        member.acknowledge("c", index)
        assert member.raft.commit_index == 0
    member.acknowledge("b", 3)
    assert member.raft.commit_index == 3, "and those before with it"


def figure_8() -> Cluster:
    """Time (c): S1 leads term 4, and entry 2 of term 2 is on S1, S2 and S3; S5 has one of term 3 in its place."""
    cluster = Cluster("s1", "s2", "s3", "s4", "s5", pre_vote=False, check_quorum=False, max_append_entries=1)
    for name, terms in {"s1": (1, 2), "s2": (1, 2), "s3": (1,), "s4": (1,), "s5": (1, 3)}.items():
        disk = Alone(*terms, name=name, term=3).disk
        disk.membership = cluster.disks[name].membership
        cluster.disks[name] = disk
        cluster.start(name)
        cluster.rafts[name].since_leader = cluster.rafts[name].config.election_ticks
    s1 = cluster.rafts["s1"]
    s1.campaign()
    bring_all(cluster, to="s1 s2 s3")
    assert (s1.role, s1.term) == (LEADER, 4)
    return cluster


def bring_all(cluster: Cluster, to: str) -> None:
    """Let messages between s1 and those arrive until no more come."""
    for _ in range(30):
        for name in cluster.names:
            cluster.settle(name)
            cluster.sync(name)
        cluster.wire = [m for m in cluster.wire if m.to in to.split()]
        if not cluster.wire:
            return
        # Time (c) is before anybody else has entry 3, of term 4: what would bring it is lost.
        cluster.wire = [m for m in cluster.wire if m.kind != APPEND or not cluster.rafts[m.to].log.matches(2, 2)]
        cluster.deliver()


def test_5_4_2_figure_8_c_the_old_entry_is_on_a_majority_and_not_committed() -> None:
    cluster = figure_8()
    assert [cluster.rafts[name].log.last_index for name in ("s1", "s2", "s3")] == [3, 2, 2]
    assert [raft.commit_index for raft in cluster.rafts.values()] == [0, 0, 0, 0, 0]


def test_5_4_2_figure_8_d_it_may_still_be_overwritten() -> None:
    cluster = figure_8()
    s5 = cluster.rafts["s5"]
    for _ in range(2):                  # of term 4 the others have voted
        s5.campaign()
        cluster.calm(without=["s1"])
    assert (s5.role, s5.term, s5.commit_index) == (LEADER, 5, 3)
    for name in ("s2", "s3", "s4"):
        assert cluster.rafts[name].log.term(2) == 3


def test_5_4_2_figure_8_e_with_one_of_the_own_term_behind_it_it_is_committed_for_good() -> None:
    cluster = figure_8()
    s1, s5 = cluster.rafts["s1"], cluster.rafts["s5"]
    cluster.ticks("s1", s1.config.heartbeat_ticks)
    cluster.calm(without=["s4", "s5"])
    assert s1.commit_index == 3
    for _ in range(3):
        s5.campaign()
        cluster.calm(without=["s1"])
        assert s5.role in (CANDIDATE, FOLLOWER), "S5 cannot win an election any more"


# -- 5.5: follower and candidate crashes -------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [2, 3])
def test_5_5_a_request_that_arrives_again_does_no_harm(times: int) -> None:
    member = Alone(1)
    for _ in range(times):
        [answer] = member.hear_append("b", 1, 1, 1, 1, 1)
        assert same(answer, index=3)
        assert member.terms == [1, 1, 1]
    for _ in range(times):
        [answer] = member.hear(VOTE, "c", 1, index=9, log_term=1)
        assert answer.reject, "it follows b"


def test_5_5_a_follower_that_crashes_before_it_answers_takes_the_same_again_after_the_restart() -> None:
    member = Alone(1)
    member.hear_append("b", 1, 1, 1, 1)
    member.start()
    [answer] = member.hear_append("b", 1, 1, 1, 1)
    assert same(answer, index=2)
    assert member.terms == [1, 1]


def test_5_5_a_voter_that_crashes_remembers_its_vote() -> None:
    member = Alone(1)
    [answer] = member.hear(VOTE, "b", 2, index=1, log_term=1)
    assert not answer.reject
    member.start()
    [answer] = member.hear(VOTE, "c", 2, index=1, log_term=1)
    assert answer.reject
    [answer] = member.hear(VOTE, "b", 2, index=1, log_term=1)
    assert not answer.reject


def test_5_5_a_candidate_that_crashes_remembers_that_it_voted_for_itself() -> None:
    member = Alone(1, pre_vote=False)
    member.campaign()
    member.start()
    assert (member.raft.role, member.raft.term, member.raft.vote) == (FOLLOWER, 2, "a")
    [answer] = member.hear(VOTE, "b", 2, index=9, log_term=1)
    assert answer.reject
    member.hear(VOTE_REPLY, "c", 2)
    assert member.raft.role == FOLLOWER, "votes for a candidacy that a crash has ended are none"


def test_5_5_members_that_were_away_are_sent_what_they_missed() -> None:
    cluster = Cluster("a", "b", "c", pre_vote=False)
    raft = cluster.elect("a")
    for number in range(50):
        raft.propose(batch(f"k{number}"))
        cluster.calm(without=["c"])
    cluster.start("c")
    cluster.ticks("a", raft.config.heartbeat_ticks)
    cluster.calm()
    assert cluster.rafts["c"].log.last_index == 51
    cluster.ticks("a", raft.config.heartbeat_ticks)
    cluster.calm()
    assert cluster.applied["c"] == 51
