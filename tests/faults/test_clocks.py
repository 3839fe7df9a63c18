"""Clocks that are wrong: the time of day jumps, and a machine is suspended while its monotonic clock stands still."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Node, eventually, paused, running_cluster
from tests.e2e.load import Writers
from tests.faults.clocks import COMPILER, Clocks, compile_shim
from tests.faults.network import LinkedCluster
from tests.faults.test_pauses import write
from tests.faults.watch import LIMIT_S, Questions, Watch

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None, reason="there is no C compiler (cc): wrong clocks are NOT tested"),
]

HOUR_S = 3600.0
YEAR_S = 365 * 24 * HOUR_S
ELECTION_S = 0.5
LEASES = "raft: {reads: lease, election_timeout_ms: 1000, heartbeat_timeout_ms: 50}\n"
"""Long enough for a lease to be there still when a test has stopped the process."""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path) as started:
        yield started


@dataclass
class Shifted:
    """A cluster, and each node's clocks."""

    cluster: Cluster
    clocks: dict[str, Clocks] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def started(cls, cluster: Cluster, shim: Path) -> Iterator[Shifted]:
        with ExitStack() as ending:
            ending.callback(cluster.close)
            shifted = cls(cluster)
            for node in cluster:
                clocks = Clocks(shim, cluster.directory / f"{node.node_id}.clocks")
                ending.callback(clocks.close)
                shifted.clocks[node.node_id] = clocks
                node.start(environment=clocks.environment)
            cluster.leader()
            yield shifted


# -- the time of day ---------------------------------------------------------------------------------------------------


def test_the_clocks_are_shifted(tmp_path: Path, shim: Path) -> None:
    """Else the tests below would show nothing: what a node says of the time of day moves, and moves back."""
    with Shifted.started(Cluster(tmp_path), shim) as shifted:
        odd, other = list(shifted.cluster)[:2]
        for shift_s in (YEAR_S, -YEAR_S, 0.0):
            shifted.clocks[odd.node_id].set_wall(shift_s)
            assert says_it_is_off_by(odd) == pytest.approx(shift_s, abs=HOUR_S)
            assert says_it_is_off_by(other) == pytest.approx(0, abs=HOUR_S)
        shifted.clocks[odd.node_id].set_wall(YEAR_S)
        assert odd.stop() == 0
        next_year = time.gmtime(time.time() + YEAR_S).tm_year
        assert f"| {next_year}-" in odd.log_text(), "what it logs has the shifted time"


def says_it_is_off_by(node: Node) -> float:
    return float(eventually(node.status, within_s=LIMIT_S, what="a status")["timestamp"]) - time.time()


@pytest.mark.parametrize("reads", ["read-index", "lease"])
def test_jumps_of_the_time_of_day_change_nothing(tmp_path: Path, shim: Path, reads: str) -> None:
    """No election, no stale read, no write lost or done twice, whoever's clock jumps, and whereto."""
    patient = f"raft: {{reads: {reads}, election_timeout_ms: {ELECTION_S * 1000:.0f}, heartbeat_timeout_ms: 50}}\n"
    with Shifted.started(Cluster(tmp_path, extra=patient), shim) as shifted:
        cluster = shifted.cluster
        once = put_once(cluster)
        with Watch(cluster) as watch, Writers(cluster.endpoints, 2) as writers:
            leader = cluster.leader()
            follower = next(node for node in cluster if node is not leader)
            for victims in ([leader], [follower], list(cluster)):
                for shift_s in (YEAR_S, -YEAR_S, 0.0):
                    jump(shifted, victims, shift_s, watch)
            assert put_once(cluster) == once, "forgotten because a clock said so"
        assert watch.stale == []
        assert writers.failures == []
        assert writers.lost() == []


def jump(shifted: Shifted, victims: list[Node], shift_s: float, watch: Watch) -> None:
    """Clocks jump there, and no election comes of it. On a busy machine one may come by itself, but not each time."""
    for _ in range(5):
        before = terms(shifted.cluster)
        for node in victims:
            shifted.clocks[node.node_id].set_wall(shift_s)
        time.sleep(2 * ELECTION_S)      # whoever waits for a heartbeat that does not come has campaigned by then
        watch.until(20)
        if terms(shifted.cluster) == before:
            return
        shift_s = -shift_s
    raise AssertionError(f"an election after each of five jumps by {shift_s} s of {[node.node_id for node in victims]}")


def terms(cluster: Cluster) -> set[int]:
    return {
        eventually(node.status, within_s=LIMIT_S, what="a status")["nodes"][node.node_id]["term"] for node in cluster
    }


def put_once(cluster: Cluster) -> int:
    """The revision of a write with an idempotency key: the same however often it is sent."""
    headers = {"Idempotency-Key": "only-once"}
    nodes = cycle(cluster)

    def done() -> int | None:
        status, answer = next(nodes).request("PUT", "/kv/once", b"v", headers)
        return int(answer["revision"]) if status in (200, 201) else None

    return eventually(done, within_s=LIMIT_S, what="a write")


CLIENT = """
import asyncio
import sys
import fastkv

async def main(endpoints, timeout):
    async with fastkv.AsyncClient(endpoints, timeout=60) as kv:
        await kv.put("k", "v")
        print("ready", flush=True)
        sys.stdin.readline()
        write = asyncio.create_task(kv.put("k", "w", timeout=float(timeout)))
        await asyncio.sleep(0)
        print("asking", flush=True)
        try:
            await write
            print("done")
        except (fastkv.Timeout, fastkv.Unavailable, fastkv.OutcomeUnknown):
            print("too late")

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(("shift_s", "timeout_s", "said"), [(YEAR_S, 100, "done"), (-YEAR_S, 2, "too late")])
def test_a_client_s_deadline_is_kept_over_jumps(
    cluster: Cluster, tmp_path: Path, shim: Path, shift_s: float, timeout_s: int, said: str
) -> None:
    clocks = Clocks(shim, tmp_path / "client.clocks")
    command = [sys.executable, "-c", CLIENT, cluster.endpoints, str(timeout_s)]
    with subprocess.Popen(
        command, env={**os.environ, **clocks.environment}, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        with paused(*cluster):
            print("go on", file=client.stdin, flush=True)
            assert client.stdout.readline() == "asking\n"
            clocks.set_wall(shift_s)
            if said == "too late":
                client.wait(timeout=LIMIT_S)        # nobody has answered, and nobody will
        assert client.communicate(timeout=LIMIT_S)[0] == f"{said}\n"
    clocks.close()


# -- a machine that was suspended --------------------------------------------------------------------------------------


def test_a_leader_that_was_suspended_serves_nothing_stale(tmp_path: Path, shim: Path) -> None:
    with Shifted.started(LinkedCluster(tmp_path, extra=LEASES), shim) as shifted:
        for number in range(2):
            assert suspend_leader(shifted, number) <= {f"{number} after"}


def test_a_lease_on_a_clock_that_stands_still_serves_what_is_stale(tmp_path: Path, shim: Path) -> None:
    """The control: CLOCK_BOOTTIME stands still as well, as on no machine there is. So the test above can fail."""
    with Shifted.started(LinkedCluster(tmp_path, extra=LEASES), shim) as shifted:
        for number in range(8):
            if f"{number} before" in suspend_leader(shifted, number, also_boot_time=True):
                return
    raise AssertionError("the clock of the leases stood still, and no lease was believed that had run out")


def suspend_leader(shifted: Shifted, number: int, *, also_boot_time: bool = False) -> set[str]:
    """What a leader answers that wakes up after another one has written, and before it hears of it."""
    cluster = shifted.cluster
    assert isinstance(cluster, LinkedCluster)
    assert write(cluster, "k", f"{number} before")
    old = cluster.leader()
    others = [node for node in cluster if node is not old]
    questions = Questions(old)
    with cluster.network.cut_off(old, others):
        with paused(old):
            began = time.monotonic()
            cluster.leader(among=others)
            assert write(cluster, "k", f"{number} after", among=others)
            questions.ask("k")
            shifted.clocks[old.node_id].stand_still(time.monotonic() - began, also_boot_time=also_boot_time)
        return {value for _, value in questions.answers()}
