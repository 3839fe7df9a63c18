"""A clean stop costs nobody anything: leadership is handed over, and clients are told what was not done."""

from __future__ import annotations

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.load import Writers

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.mark.parametrize("exactly_once", [True, False], ids=["sessions", "no sessions"])
def test_a_rolling_restart_fails_no_write(patient_cluster: Cluster, exactly_once: bool) -> None:
    with Writers(patient_cluster.endpoints, exactly_once=exactly_once) as writers:
        for node in patient_cluster:
            assert node.stop() == 0
            writers.until(50)
            node.start()
            patient_cluster.leader()
            writers.until(50)
    assert writers.failures == []
    assert writers.lost() == []
    print(f"{writers.writes} writes, the longest gap {writers.longest_gap_s * 1000:.0f} ms")


def test_leadership_goes_where_it_is_sent(patient_cluster: Cluster) -> None:
    with Writers(patient_cluster.endpoints, exactly_once=False) as writers:
        for _ in range(3):
            to = patient_cluster.followers()[0]
            status, answer = to.request("POST", "/cluster/leader", b'{"to": "%s"}' % to.node_id.encode())
            assert (status, answer["leader"]) == (200, to.node_id)
            assert patient_cluster.leader() is to
            writers.until(20)
    assert writers.failures == []
    assert writers.lost() == []
