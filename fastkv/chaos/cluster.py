"""The nodes of a run: real processes on a network that can fail, with settings that make snapshots frequent.

Whoever ends a process says so first, so that one that ends by itself is noticed. All of them end with this process,
however it ends: the kernel sees to that.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fastkv.chaos.http_door import DoorError, HttpDoor
from fastkv.chaos.network import Network
from fastkv.errors import FastKVError

KIB = 1024
PR_SET_PDEATHSIG = 1
ASK_AGAIN_S = 0.02
START_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0
NOT_INHERITED = ("KV_", "RAFT_")

LOG_BYTES = 64 * KIB

Result = TypeVar("Result")
_libc = ctypes.CDLL(None)


def settings(log_bytes: int) -> dict[str, dict[str, Any]]:
    """What nodes run with: the log is cut every second, and who needs more than its last `log_bytes` gets a snapshot.

    They have to hold what is written while a snapshot is fetched: else whoever fetches one needs the next one after it.
    """
    return {
        "raft": {
            "election_timeout_ms": 100, "heartbeat_timeout_ms": 25, "snapshot_log_bytes": log_bytes,
            "snapshot_chunk_bytes": 16 * KIB,
        },
        "storage": {
            "segment_bytes": 1024 * KIB, "memtable_bytes": 64 * KIB, "checkpoint_age_s": 1,
            "checkpoint_wal_bytes": 1024 * KIB,
        },
        "logging": {"level": "info"},
    }  # fmt: skip


class ClusterError(FastKVError):
    """The cluster does not do what it has to; the text says what, and where its logs are."""

    code = "CLUSTER_FAILED"


async def eventually(
    probe: Callable[[], Awaitable[Result | None]], *, within_s: float, what: str, else_see: Path
) -> Result:
    """Ask until the answer is a true one; there is no event across processes. ClusterError where none comes in time."""
    deadline = time.monotonic() + within_s
    while True:
        answer = await probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise ClusterError(f"not within {within_s:.0f} s: {what}; see {else_see}")
        await asyncio.sleep(ASK_AGAIN_S)


class Node:
    """One node's process."""

    def __init__(self, name: str, network: Network, directory: Path) -> None:
        self.name = name
        self.place = network.places[name]
        self.log_path = directory / f"{name}.log"
        self.data_path = directory / "data" / name
        self.process: subprocess.Popen[bytes] | None = None
        self.expected_to_end = True
        """Whether nobody is to wonder where it is not running."""
        self.paused = False
        self._network = network
        self._config = directory / f"{name}.yaml"
        self._door = HttpDoor(self.place.http)

    @property
    def pid(self) -> int | None:
        """The process's id, where it runs."""
        return self.process.pid if self.process is not None and self.process.poll() is None else None

    def start(self, *, join: bool = False) -> None:
        """Start the process; with `join` it waits to be added, where its data directory is empty."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
        environ |= {"RAFT_NODE_ID": self.name, "KV_CONFIG": str(self._config)}
        if join:
            environ["KV_JOIN"] = "true"
        command = self._network.command(self.name, (sys.executable, "-m", "fastkv", "serve"))
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ,
                start_new_session=True,     # a Ctrl-C is for the run, which stops its nodes
                preexec_fn=_end_with_parent,
            )  # fmt: skip
        self.expected_to_end = self.paused = False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing where the process is gone."""
        if self.process is not None:
            self.process.send_signal(number)
            self.paused = number == signal.SIGSTOP or (self.paused and number != signal.SIGCONT)

    async def kill(self) -> None:
        """kill -9."""
        self.expected_to_end = True
        self.signal(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> int:
        """A clean stop; the exit status. ClusterError where it takes too long."""
        self.expected_to_end = True
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        """The exit status, once the process has ended. ClusterError where it does not."""
        process = self.process
        assert process is not None

        async def status() -> tuple[int] | None:
            return None if process.poll() is None else (process.returncode,)

        what = f"{self.name} to end"
        return (await eventually(status, within_s=STOP_LIMIT_S, what=what, else_see=self.log_path))[0]

    def wipe(self) -> None:
        """Empty its data directory, while it does not run."""
        assert self.pid is None
        shutil.rmtree(self.data_path, ignore_errors=True)

    async def ask(
        self, path: str, *, method: str = "GET", document: Mapping[str, Any] | None = None, within_s: float = 2.0
    ) -> tuple[int, dict[str, Any]]:
        """Status and answer over HTTP; (0, {}) where there is none. A question of its own: others may be under way."""
        body = b"" if document is None else json.dumps(document).encode()
        door = HttpDoor(self.place.http)
        try:
            answer = await door.request(method, path, body, within_s=within_s)
            return answer.status, answer.json()
        except (DoorError, ValueError):
            return 0, {}
        finally:
            door.close()


class Cluster:
    """All nodes of a run."""

    def __init__(self, directory: Path, network: Network, *, log_bytes: int = LOG_BYTES) -> None:
        self.directory = directory
        self.network = network
        self._settings = settings(log_bytes)
        self.nodes = {name: Node(name, network, directory) for name in network.places}
        self.ended_by_themselves: list[str] = []
        """What was noticed of processes that nobody had ended."""

    @property
    def names(self) -> list[str]:
        """Of all nodes."""
        return list(self.nodes)

    @property
    def endpoints(self) -> str:
        """All raw-TCP addresses, as clients take them."""
        return ",".join(place.raft for place in self.network.places.values())

    def _write_config(self, name: str) -> None:
        places = self.network.places
        document = {
            "cluster": {
                "name": "chaos", "bootstrap_id": self.names[0], "data_dir": str(self.directory / "data"),
                "nodes": {each: {"raft": place.raft, "http": place.http} for each, place in places.items()},
            },
            "server": {"raft_port": places[name].raft_port},
            "security": {"insecure": not places[name].host.startswith("127.")},
            **self._settings,
        }  # fmt: skip
        (self.directory / f"{name}.yaml").write_text(json.dumps(document))      # JSON is YAML

    async def start(self) -> None:
        """Start all nodes, and wait for a leader that all know. ClusterError where none comes."""
        for name, node in self.nodes.items():
            self._write_config(name)
            node.start()
        await self.agreed_leader(within_s=START_LIMIT_S)

    async def close(self) -> None:
        """End every process, cleanly where it lets itself be ended so."""
        for node in self.nodes.values():
            node.expected_to_end = True
            if node.pid is not None:
                node.signal(signal.SIGCONT)
                node.signal(signal.SIGTERM)
        for node in self.nodes.values():
            with contextlib.suppress(ClusterError):
                if node.process is not None:
                    await node.ended()
            if node.pid is not None:
                await node.kill()

    def kill_all(self) -> None:
        """kill -9 for all, at once: for ends that are no end of a run."""
        for node in self.nodes.values():
            node.expected_to_end = True
            if node.process is not None:
                node.process.kill()
                node.process.wait()

    def look(self) -> None:
        """Notice what has ended by itself."""
        for node in self.nodes.values():
            if not node.expected_to_end and node.process is not None and node.process.poll() is not None:
                node.expected_to_end = True
                self.ended_by_themselves.append(
                    f"{node.name} ended by itself with status {node.process.returncode}; see {node.log_path}"
                )

    # -- who leads -----------------------------------------------------------------------------------------------------

    async def statuses(self, names: Sequence[str] | None = None, *, within_s: float = 1.0) -> dict[str, dict[str, Any]]:
        """`GET /cluster/status` of each node that answers."""
        asked = [self.nodes[name] for name in (names or self.names)]
        answers = await asyncio.gather(*(node.ask("/cluster/status", within_s=within_s) for node in asked))
        return {node.name: answer for node, (status, answer) in zip(asked, answers, strict=True) if status == 200}

    async def leader(self, *, within_s: float = 1.0) -> tuple[str, int]:
        """Who says of itself that it leads, and in which term; of two, the later term's. ("", 0) for nobody."""
        claims = [(0, "")]
        for name, said in (await self.statuses(within_s=within_s)).items():
            if said["is_leader"] and name in said["nodes"]:     # one that was just removed may still lead
                claims.append((said["nodes"][name]["term"], name))
        term, name = max(claims)
        return name, term

    async def agreed_leader(self, *, within_s: float = START_LIMIT_S) -> str:
        """The leader, once every node that is to run answers and knows it. ClusterError where that does not come."""

        async def agreed() -> str | None:
            self.look()
            wanted = [node.name for node in self.nodes.values() if not node.expected_to_end]
            said = await self.statuses(wanted)
            leaders = {next((n for n, s in each["nodes"].items() if s["is_leader"]), "") for each in said.values()}
            leader = leaders.pop() if len(leaders) == 1 and len(said) == len(wanted) else ""
            return leader if leader in wanted and said[leader]["is_leader"] else None

        return await eventually(agreed, within_s=within_s, what="one leader that all know", else_see=self.directory)

    # -- who belongs to it ---------------------------------------------------------------------------------------------

    async def voters(self) -> set[str]:
        """The voters, as the leader or who is nearest to it says; empty while nobody answers."""
        for node in self.nodes.values():
            if node.pid is not None and not node.paused:
                status, answer = await node.ask("/cluster/members")
                if status == 200:
                    return {one["id"] for one in answer["members"] if one["role"] == "voter"}
        return set()

    async def remove(self, name: str) -> None:
        """Remove a member: its process ends by itself, and that is in order. ClusterError where it does not."""
        self.nodes[name].expected_to_end = True

        async def removed() -> bool:
            for other in self.names:
                if other != name:
                    await self.nodes[other].ask(f"/cluster/members/{name}", method="DELETE", within_s=6.0)
                    voters = await self.voters()
                    return bool(voters) and name not in voters
            return False

        await eventually(removed, within_s=START_LIMIT_S, what=f"{name} to be removed", else_see=self.directory)
        if self.nodes[name].pid is not None:
            await self.nodes[name].stop()

    async def add(self, name: str) -> None:
        """Add a node that was started with `join`, and wait until it votes. ClusterError where that does not come."""
        place = self.nodes[name].place
        asked = {"id": name, "raft": place.raft, "http": place.http}

        async def added() -> bool:
            if name in await self.voters():
                return True
            for other in self.names:
                if other != name:
                    await self.nodes[other].ask("/cluster/members", method="POST", document=asked, within_s=6.0)
                    break
            return False

        async def answers() -> bool:
            return (await self.nodes[name].ask("/livez"))[0] == 200

        await eventually(answers, within_s=START_LIMIT_S, what=f"{name} to answer", else_see=self.directory)
        await eventually(added, within_s=START_LIMIT_S, what=f"{name} to vote", else_see=self.directory)


def _end_with_parent() -> None:
    """In the child, before it becomes a node: the kernel kills it when the run is gone."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
