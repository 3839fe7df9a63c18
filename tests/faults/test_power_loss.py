"""The power of real nodes under load is cut: what was acknowledged is there, and nodes agree. With syncs that lie, not.

The last is what shows that the first could fail: the same load, the same cut, the same check, on disks that say that a
sync has succeeded and make nothing durable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.lossy_disk import Loss
from tests.faults.lossy_mount import mounted_or_skipped
from tests.faults.node_rounds import LossyCluster, Writers, lost, node_round
from tests.faults.small_node import Plan, Promises, check, live

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture
def lossy(tmp_path: Path) -> Iterator[Callable[[int], LossyCluster]]:
    """Makes clusters of so many nodes on lossy disks."""
    mounted_or_skipped(tmp_path, "can-it-mount").unmount()
    with ExitStack() as stack:
        yield lambda nodes: stack.enter_context(LossyCluster(tmp_path, nodes))


@pytest.mark.parametrize("nodes", [1, 3])
def test_acknowledged_writes_survive_power_loss(lossy: Callable[[int], LossyCluster], nodes: int) -> None:
    """Rounds of one seed; `python -m tests.faults.power_loss one` (or `three`) runs more."""
    outcome = node_round(nodes, lossy(nodes), cuts=2)
    assert not outcome.wrong, "\n".join(outcome.wrong[:20] + outcome.told)
    assert outcome.cuts >= 2
    assert outcome.promised >= 50


@pytest.mark.parametrize("nodes", [1, 3])
def test_where_syncs_lie_acknowledged_writes_are_lost(lossy: Callable[[int], LossyCluster], nodes: int) -> None:
    """The negative control: the check bites."""
    started = lossy(nodes)
    started.start()
    for disk in started.disks.values():
        disk.lie()
    with Writers(started.cluster.endpoints) as writers:
        writers.until(50)
        started.lose_power(started.nodes, Loss.ALL, 0)
    started.start()
    missing = lost(started.cluster.endpoints, writers.acknowledged)
    assert len(missing) >= 50
    assert set(missing) <= set(writers.acknowledged)


def test_where_syncs_lie_a_node_s_storage_loses_what_it_promised(tmp_path: Path) -> None:
    """The control of the rounds on storage alone."""
    with mounted_or_skipped(tmp_path) as disk:
        promises, data = Promises(), disk.path / "data"
        disk.lie()
        assert live(data, Plan(10), promises)
        disk.cut(Loss.ALL, 0)
        disk.power_on()
        assert check(data, promises)
