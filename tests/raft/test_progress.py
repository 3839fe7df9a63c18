"""What a leader knows of a follower: probing, pipelining, and what stale answers must not do."""

from __future__ import annotations

from fastkv.raft.progress import PROBE, REPLICATE, Progress


def replicating(match: int = 5) -> Progress:
    progress = Progress(match + 1, 0)
    progress.acknowledged(match)
    assert progress.state == REPLICATE
    return progress


def test_a_probe_waits_for_its_answer() -> None:
    progress = Progress(10, 0)
    progress.sent(12, 100)
    assert (progress.state, progress.probing, progress.next) == (PROBE, True, 10)
    assert progress.acknowledged(12)
    assert (progress.state, progress.match, progress.next, progress.inflight_bytes) == (REPLICATE, 12, 13, 0)


def test_a_pipeline_moves_next_before_any_answer() -> None:
    progress = replicating(5)
    progress.sent(7, 100)
    progress.sent(9, 50)
    assert (progress.match, progress.next, progress.inflight_bytes) == (5, 10, 150)
    assert progress.acknowledged(7)
    assert (progress.match, progress.next, progress.inflight_bytes) == (7, 10, 50)
    assert progress.acknowledged(9)
    assert progress.inflight_bytes == 0


def test_a_late_acknowledgement_is_no_news() -> None:
    progress = replicating(5)
    assert not progress.acknowledged(5)
    assert not progress.acknowledged(3)
    assert (progress.match, progress.next) == (5, 6)


def test_a_refusal_while_replicating_goes_back_to_what_is_certain() -> None:
    progress = replicating(5)
    progress.sent(7, 100)
    progress.sent(9, 100)
    assert progress.refused(7, 1)
    assert (progress.state, progress.next, progress.inflight_bytes) == (PROBE, 6, 0)
    assert not progress.refused(9, 1), "the answer to what came behind says nothing new"


def test_a_stale_refusal_is_ignored() -> None:
    progress = replicating(5)
    assert not progress.refused(5, 1)
    assert not progress.refused(4, 1)
    probing = Progress(10, 0)
    assert not probing.refused(5, 2), "that was an earlier probe"
    assert probing.next == 10


def test_a_refused_probe_follows_the_hint_but_never_below_the_match() -> None:
    progress = Progress(10, 0)
    assert progress.refused(9, 4)
    assert progress.next == 4
    assert progress.refused(3, 9)
    assert progress.next == 3, "at least one step back"
    progress.match = 2
    progress.next = 4
    assert progress.refused(3, 1)
    assert progress.next == 3


def test_a_broken_link_forgets_what_was_under_way_and_nothing_else() -> None:
    progress = replicating(5)
    progress.sent(9, 100)
    progress.back_to_probe()
    assert (progress.state, progress.next, progress.inflight_bytes) == (PROBE, 6, 0)
    fresh = Progress(10, 0)
    fresh.sent(10, 1)
    fresh.back_to_probe()
    assert (fresh.next, fresh.probing) == (10, False), "the match is not known yet: probing goes on where it was"
