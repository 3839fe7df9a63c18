"""A node that is farther away than an election timeout: it follows, and takes requests like any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastkv.chaos.links import Rule
from tests.e2e.cluster import eventually
from tests.faults.network import linked_cluster
from tests.faults.watch import LIMIT_S

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

FAR = Rule(delay_s=0.35)
"""One way; an election timeout is 100 ms, and a question is put again after as long."""


@pytest.mark.parametrize("consistency", ["linearizable", "lease"])
def test_reads_and_writes_end_on_a_node_that_is_farther_away_than_an_election_timeout(
    tmp_path: Path, consistency: str
) -> None:
    with linked_cluster(tmp_path) as cluster:
        near = cluster.leader()
        far = next(node for node in cluster if node is not near)
        cluster.network.set_around(far, [node for node in cluster if node is not far], FAR)
        for number in range(3):
            for node in (far, near):
                value = f"{number} on {node.node_id}"
                eventually(lambda: node.put("k", value)[0] in (200, 201), within_s=LIMIT_S, what="a write")  # noqa: B023
                status, answer = eventually(
                    lambda: said if (said := far.get("k", f"?consistency={consistency}"))[0] == 200 else None,
                    within_s=LIMIT_S, what="a read on the node that is far away",
                )  # fmt: skip
                assert answer["value"] == value, status
