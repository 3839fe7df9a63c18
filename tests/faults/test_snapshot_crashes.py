"""A snapshot on its way from node to node, and a kill or an error at the steps of those who make it and take it in."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from tests.faults.crash_points import SCENARIOS, Sweep, Tally
from tests.faults.injection import Place, failing_at, needs_strace

pytestmark = [pytest.mark.e2e, pytest.mark.slow, needs_strace, pytest.mark.timeout(600)]

EXIT_BROKEN = 70
SEED = 5
PART = "node-3/store.part"


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweep]:
    """Two nodes whose logs have been cut, and a third that needs a snapshot."""
    return Sweep(SCENARIOS["receiver"], tmp_path_factory.mktemp("receiver"))


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweep]:
    return Sweep(SCENARIOS["maker"], tmp_path_factory.mktemp("maker"))


def test_whoever_takes_a_snapshot_in_may_be_killed_at_any_step(receiver: Sweep) -> None:
    """The one that is made again after the start is whole, and nothing that it stands for is lost."""
    tally = Tally()
    for point in receiver.draw(SEED, 3):
        tally.take(receiver, point)
    assert tally.failures == []
    assert 2 * len(tally.unreached) <= tally.points, f"most points were not reached: {tally}"


def test_whoever_makes_a_snapshot_may_be_killed_at_any_step(maker: Sweep) -> None:
    tally = Tally()
    for point in maker.draw(SEED, 2):
        tally.take(maker, point)
    assert tally.failures == []
    assert tally.points == 2
    assert 2 * len(tally.unreached) <= tally.points, f"most points were not reached: {tally}"


@pytest.mark.parametrize(
    "place",
    [
        Place("fsync", f"{PART}/data.mdb"),         # the bytes that came
        Place("fdatasync", f"{PART}/data.mdb"),     # LMDB's, when the copy is made this node's own
        Place("fsync", PART),
    ],
    ids=lambda place: f"{place.call} {place.path}",
)
def test_a_sync_of_a_snapshot_that_fails_once_ends_the_node(receiver: Sweep, place: Place) -> None:
    """A second one would succeed, and prove nothing; the next start verifies what is there."""
    outcome = receiver.run(lambda data, output: failing_at(place, errno.EIO, "1", data, output))
    assert outcome.status == EXIT_BROKEN


def test_a_sync_of_an_image_that_fails_once_ends_the_node_that_makes_it(maker: Sweep) -> None:
    place = Place("fsync", "node-2/snapshots/copy.tmp")
    outcome = maker.run(lambda data, output: failing_at(place, errno.EIO, "1", data, output))
    assert outcome.status == EXIT_BROKEN
