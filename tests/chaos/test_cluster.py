"""A cluster of real processes: started, killed, paused, stopped, changed, and never outliving its run."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fastkv.chaos import agreement, resources
from fastkv.chaos.cluster import Cluster, ClusterError, eventually
from fastkv.chaos.network import Proxies
from fastkv.client import AsyncClient

NAMES = ["node-1", "node-2", "node-3"]
LIMIT_S = 60.0

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(400)]


def with_cluster(directory: Path, act: Callable[[Cluster], Awaitable[None]]) -> None:
    """Three nodes behind proxies, and what a test does with them."""

    async def run() -> None:
        network = Proxies(NAMES)
        cluster = Cluster(directory, network)
        try:
            await network.start()
            await cluster.start()
            await act(cluster)
        finally:
            cluster.kill_all()
            await network.close()

    asyncio.run(run())


def test_processes_come_and_go(tmp_path: Path) -> None:
    async def act(cluster: Cluster) -> None:
        leader = await cluster.agreed_leader()
        assert (await cluster.leader())[0] == leader
        node = cluster.nodes[leader]
        first = node.pid
        assert first is not None
        assert resources.sample(0.0, leader, first, node.data_path) is not None
        await node.kill()
        assert node.pid is None
        assert await cluster.agreed_leader() != leader, "only nodes that are to run are asked"
        node.start()
        again = await cluster.agreed_leader()
        paused = cluster.nodes[again]
        paused.signal(signal.SIGSTOP)
        assert (await paused.ask("/livez", within_s=0.2))[0] == 0
        paused.signal(signal.SIGCONT)
        await cluster.agreed_leader()
        assert await node.stop() == 0
        cluster.look()
        assert cluster.ended_by_themselves == [], "whoever was ended has not ended by itself"

    with_cluster(tmp_path, act)


def test_who_ends_by_itself_is_noticed_once(tmp_path: Path) -> None:
    async def act(cluster: Cluster) -> None:
        pid = cluster.nodes["node-2"].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)        # not by the run

        async def noticed() -> bool:
            cluster.look()
            return bool(cluster.ended_by_themselves)

        await eventually(noticed, within_s=LIMIT_S, what="the end to be noticed", else_see=tmp_path)
        cluster.look()
        (text,) = cluster.ended_by_themselves
        assert "node-2 ended by itself with status -9" in text
        assert await cluster.agreed_leader() in ("node-1", "node-3")

    with_cluster(tmp_path, act)


def test_a_member_is_replaced(tmp_path: Path) -> None:
    async def act(cluster: Cluster) -> None:
        async with AsyncClient(cluster.endpoints, timeout=LIMIT_S) as kv:
            for number in range(300):
                await kv.put(f"once/{number}", f"w:{number}:1000".ljust(1000))
        assert await cluster.voters() == set(NAMES)
        leader = await cluster.agreed_leader()
        node = cluster.nodes[leader]
        await cluster.remove(leader)
        assert await cluster.voters() == set(NAMES) - {leader}
        node.wipe()
        assert not node.data_path.exists()
        node.start(join=True)
        await cluster.add(leader)
        assert await cluster.voters() == set(NAMES)
        found = await agreement.agree(cluster, {})
        assert found.divergence == []
        assert found.keys == 300
        assert cluster.ended_by_themselves == []

    with_cluster(tmp_path, act)


def test_what_does_not_come_is_said_with_where_to_look(tmp_path: Path) -> None:
    async def never() -> None:
        return None

    with pytest.raises(ClusterError, match=rf"not within 0 s: a miracle; see {tmp_path}"):
        asyncio.run(eventually(never, within_s=0.1, what="a miracle", else_see=tmp_path))


RUN = """
import asyncio, sys
from pathlib import Path
from fastkv.chaos.cluster import Cluster
from fastkv.chaos.network import Proxies

async def run():
    network = Proxies(["node-1"])
    cluster = Cluster(Path(sys.argv[1]), network)
    await network.start()
    await cluster.start()
    print(cluster.nodes["node-1"].pid, flush=True)
    await asyncio.sleep(3600)

asyncio.run(run())
"""


def test_no_node_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    run = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)], stdout=subprocess.PIPE)
    assert run.stdout is not None
    node = int(run.stdout.readline())
    assert Path(f"/proc/{node}").exists()
    run.kill()
    run.wait()
    run.stdout.close()
    deadline = time.monotonic() + LIMIT_S
    while _running(node):
        assert time.monotonic() < deadline, "the node is still there"
        time.sleep(0.02)


def _running(pid: int) -> bool:
    """Whether it is more than an entry that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
