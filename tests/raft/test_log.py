"""The log in memory against a list, with its older part evicted to a reader."""

from __future__ import annotations

import random

import pytest

from fastkv.log_types import Segment
from fastkv.raft import InvariantBroken, RaftLog
from tests.raft.harness import NothingEvicted, log_of, run_of


def terms_of(segments: list[Segment]) -> list[tuple[int, int]]:
    return [(s.first_index + i, s.term) for s in segments for i in range(s.batch.count)]


class ListReader:
    """Reads evicted entries from a list of terms."""

    def __init__(self, terms: list[int]) -> None:
        self.terms = terms

    def read(self, first: int, last: int, max_bytes: int) -> list[Segment]:
        return [run_of(index, self.terms[index - 1]) for index in range(first, min(last, first + 2) + 1)]

    def term_at(self, index: int) -> int:
        return self.terms[index - 1]


def test_an_empty_log_ends_at_index_0_in_term_0() -> None:
    log = RaftLog(0, 0, [], NothingEvicted())
    assert (log.last_index, log.last_term, log.term(0), log.term(1)) == (0, 0, 0, None)
    assert log.matches(0, 0)
    assert log.slice(1, 100, 100) == []


def test_entries_follow_each_other_in_index_and_term() -> None:
    log = RaftLog(0, 0, log_of(1, 2), NothingEvicted())
    with pytest.raises(InvariantBroken):
        log.append(run_of(4, 2))
    with pytest.raises(InvariantBroken):
        log.append(run_of(3, 1))


def test_up_to_date_compares_term_before_index() -> None:
    log = RaftLog(0, 0, log_of(1, 1, 2), NothingEvicted())
    assert log.is_up_to_date(1, 3)
    assert log.is_up_to_date(3, 2)
    assert not log.is_up_to_date(2, 2)
    assert not log.is_up_to_date(9, 1)


def test_truncation_may_fall_within_a_segment() -> None:
    log = RaftLog(0, 0, [run_of(1, 1, 5), run_of(6, 2, 5)], NothingEvicted())
    log.truncate(9)
    assert (log.last_index, log.last_term) == (8, 2)
    log.truncate(3)
    assert (log.last_index, log.last_term, log.term(3)) == (2, 1, None)
    assert log.nbytes_in_memory == 16
    with pytest.raises(InvariantBroken):
        log.truncate(3)


def test_the_last_entry_not_above_skips_whole_terms() -> None:
    log = RaftLog(0, 0, log_of(1, 1, 4, 4, 5, 5, 6), NothingEvicted())
    assert log.last_not_above(7, 9) == (7, 6)
    assert log.last_not_above(7, 4) == (4, 4)
    assert log.last_not_above(7, 3) == (2, 1)
    assert log.last_not_above(20, 6) == (7, 6)
    assert log.last_not_above(7, 0) == (0, 0)


def test_budgets_bound_a_slice_but_one_entry_always_goes() -> None:
    log = RaftLog(0, 0, [run_of(1, 1, 10), run_of(11, 2, 10)], NothingEvicted())
    assert terms_of(log.slice(9, 8 * 4, 100)) == [(9, 1), (10, 1), (11, 2), (12, 2)]
    assert terms_of(log.slice(9, 1000, 3)) == [(9, 1), (10, 1), (11, 2)]
    assert terms_of(log.slice(5, 1, 100)) == [(5, 1)]
    assert log.slice(21, 100, 100) == []


def test_what_is_not_durable_is_neither_evicted_nor_cut() -> None:
    log = RaftLog(0, 0, log_of(1, 1), NothingEvicted())
    log.append(run_of(3, 1))
    log.evict(3)
    assert log.nbytes_in_memory == 8
    assert terms_of(log.slice(3, 100, 100)) == [(3, 1)]
    with pytest.raises(InvariantBroken):
        log.cut(3, 1)
    log.durable_index = 3
    log.cut(3, 1)
    assert (log.base_index, log.nbytes_in_memory) == (3, 0)


def test_a_truncation_takes_what_was_durable() -> None:
    log = RaftLog(0, 0, log_of(1, 1, 2), NothingEvicted())
    log.truncate(2)
    assert log.durable_index == 1


def test_terms_of_a_long_evicted_log_are_found_by_bisection() -> None:
    looked_at: list[int] = []

    class Reader(NothingEvicted):
        def term_at(self, index: int) -> int:
            looked_at.append(index)
            return 1 if index <= 10 else 2

    log = RaftLog(0, 0, [run_of(1_000_001, 2)], Reader())
    looked_at.clear()
    assert log.last_not_above(1_000_000, 1) == (10, 1)
    assert len(looked_at) <= 21


def test_a_cut_moves_the_base() -> None:
    log = RaftLog(0, 0, log_of(1, 1, 2, 2), NothingEvicted())
    log.cut(2, 1)
    assert (log.base_index, log.base_term, log.term(1), log.term(2), log.term(3)) == (2, 1, None, 1, 2)
    log.cut(1, 1)
    assert log.base_index == 2, "it never moves back"


@pytest.mark.parametrize("seed", range(40))
def test_a_random_life_against_a_list(seed: int) -> None:
    rng = random.Random(seed)
    terms: list[int] = []
    log = RaftLog(0, 0, [], ListReader(terms))
    durable = 0
    for _ in range(120):
        action = rng.random()
        if action < 0.45:
            term = (terms[-1] if terms else 1) + (rng.random() < 0.3)
            count = rng.randint(1, 4)
            log.append(run_of(len(terms) + 1, term, count))
            terms += [term] * count
        elif action < 0.6 and len(terms) > durable:
            at = rng.randint(durable + 1, len(terms))
            log.truncate(at)
            del terms[at - 1 :]
        elif action < 0.75 and terms:
            log.durable_index = durable = rng.randint(durable, len(terms))
            log.evict(rng.randint(0, len(terms)))
        assert (log.last_index, log.last_term) == (len(terms), terms[-1] if terms else 0)
        for index in range(1, len(terms) + 1):
            assert log.term(index) == terms[index - 1]
        if terms:
            first = rng.randint(1, len(terms))
            last = rng.randint(first, len(terms))
            found: list[tuple[int, int]] = []
            while first + len(found) <= last:
                found += terms_of(log.from_to(first + len(found), last))
            assert found == [(i, terms[i - 1]) for i in range(first, last + 1)]
            wanted = rng.randint(0, terms[-1])
            at_most = [(i, t) for i, t in enumerate(terms[:last], 1) if t <= wanted]
            assert log.last_not_above(last, wanted) == (at_most[-1] if at_most else (0, 0))
            piece = terms_of(log.slice(first, rng.choice([8, 24, 1000]), 3))
            assert piece == [(i, terms[i - 1]) for i in range(first, first + len(piece))]
            assert 1 <= len(piece) <= 3
