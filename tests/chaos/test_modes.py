"""Schedules: drawn from the seed alone, and with everything in them that a mode is about."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from fastkv.chaos.faults import FAULTS
from fastkv.chaos.modes import MODES, schedule
from fastkv.chaos.network import DELAY, HALF_OPEN, LOSS

ALL = frozenset({DELAY, LOSS, HALF_OPEN})


@pytest.mark.parametrize("name", MODES)
def test_one_seed_is_one_schedule(name: str) -> None:
    first = list(islice(schedule(MODES[name], 7, ALL), 100))
    assert list(islice(schedule(MODES[name], 7, ALL), 100)) == first
    assert list(islice(schedule(MODES[name], 8, ALL), 100)) != first


@pytest.mark.parametrize("name", MODES)
def test_every_deck_is_dealt_whole(name: str) -> None:
    mode = MODES[name]
    size = sum(card.times for card in mode.deck)
    steps = schedule(mode, 3, ALL)
    for _ in range(3):
        dealt = Counter(step.kind for step in islice(steps, size))
        assert dealt == {card.kind: card.times for card in mode.deck}


@pytest.mark.parametrize("name", MODES)
def test_a_short_run_has_what_its_verdict_asks_for(name: str) -> None:
    for seed in range(20):
        first = [step.kind for step in islice(schedule(MODES[name], seed, ALL), len(MODES[name].first))]
        assert tuple(first) == MODES[name].first
        assert set(MODES[name].must) <= set(first)


@pytest.mark.parametrize("name", MODES)
def test_what_a_network_cannot_do_is_not_asked_of_it(name: str) -> None:
    kinds = {step.kind for step in islice(schedule(MODES[name], 1, frozenset({LOSS})), 200)}
    assert kinds
    assert all(FAULTS[kind].needs in (None, LOSS) for kind in kinds)


def test_every_fault_is_in_some_mode_and_every_card_is_a_fault() -> None:
    cards = [card for mode in MODES.values() for card in mode.deck]
    assert {card.kind for card in cards} == set(FAULTS)
    assert all(0 <= card.hold_s[0] <= card.hold_s[1] for card in cards)
