"""A node killed at every call that changes its data directory, started again, and held to what it had acknowledged.

    python -m tests.faults.crash_points [--all | --seed S --count N] [--scenario NAME]...

First a run is watched and its places are counted; then, for each of them, a run is killed at it. What a killed process
had written stays in the kernel's memory: what only power loss takes is tested elsewhere.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.cluster import Cluster, Node, eventually
from tests.faults.injection import Place, Point, killing, places, watching
from tests.faults.journal import DEADLINE_S, Journal, settled

SETTINGS = """\
raft: {election_timeout_ms: 1000, heartbeat_timeout_ms: 100, snapshot_log_bytes: 65536}
storage:
  segment_bytes: 65536
  memtable_bytes: 65536
  checkpoint_age_s: 1
  checkpoint_wal_bytes: 1048576
  lmdb_map_bytes: 16777216
limits: {request_timeout_ms: 2000, leader_wait_ms: 2000}
"""
"""Segments, checkpoints and what is kept for laggards as small as they may be; elections that a slow node survives."""
WRITES = 40
"""Of 6 kB: the log goes through four segments, and there are about four checkpoints."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run: how the victim ended, and how many writes had been acknowledged by then."""

    status: int
    acknowledged: int

    @property
    def reached(self) -> bool:
        """Whether it was killed, or ended itself: a run that is not cut short ends with a clean stop."""
        return self.status != 0


@contextmanager
def cluster_in(directory: Path, nodes: int, ports: Sequence[int] | None = None) -> Iterator[Cluster]:
    """A cluster whose nodes are started one by one, killed at the end."""
    cluster = Cluster(directory, nodes, extra=SETTINGS, ports=ports)
    try:
        yield cluster
    finally:
        cluster.close()


def write_while_it_lives(victim: Node, asked: Node, journal: Journal, count: int = WRITES) -> None:
    """Ask `asked` to write until `victim` is dead, or `count` writes have been acknowledged."""
    deadline = time.monotonic() + DEADLINE_S
    before = len(journal.acknowledged)
    while victim.running and len(journal.acknowledged) < before + count and time.monotonic() < deadline:
        if not journal.write(asked):
            time.sleep(0.01)        # not there yet


def ended(victim: Node) -> int:
    """The victim's exit status; where it still runs, it is stopped in good order."""
    assert victim.process is not None
    if victim.running:
        victim.process.terminate()
    return victim.process.wait(timeout=DEADLINE_S)


def leads(node: Node) -> bool:
    """Whether a node leads; where not, it is asked for. A snapshot is asked of whoever does not lead."""
    if node.status().get("is_leader"):
        return True
    try:
        body = json.dumps({"to": node.node_id}).encode()
        node.request("POST", "/cluster/leader", body, {"Content-Type": "application/json"})
    except (OSError, http.client.HTTPException):
        time.sleep(0.01)        # not there yet
    return False


class Single:
    """A node by itself, from its very first start to its clean stop."""

    name = "single"
    writes = WRITES

    def prepare(self, directory: Path) -> None:
        """What is there before the run that is watched or killed."""

    def concerns(self, place: Place) -> bool:
        """Whether this scenario is about that place."""
        return True

    def run(self, directory: Path, wrap: tuple[str, ...]) -> Outcome:
        with cluster_in(directory, 1) as cluster:
            (node,) = cluster
            journal = Journal("run")
            node.start(wrap=wrap)
            write_while_it_lives(node, node, journal, self.writes)
            status = ended(node)
            acknowledged = len(journal.acknowledged)
            assert status or acknowledged >= self.writes, "it neither ended nor served"
            node.start()
            self.check(node, journal)
            return Outcome(status, acknowledged)

    def check(self, node: Node, journal: Journal) -> None:
        journal.check_and_go_on(node)


class Restart(Single):
    """The second life of a node that was killed amid its writes: recovery, and then more of the same."""

    name = "restart"
    writes = 12
    earlier = 25

    def prepare(self, directory: Path) -> None:
        with cluster_in(directory, 1) as cluster:
            (node,) = cluster
            journal = Journal("before")
            node.start()
            cluster.leader(within_s=DEADLINE_S)
            assert [journal.write(node) for _ in range(self.earlier)] == [201] * self.earlier
            node.kill()

    def check(self, node: Node, journal: Journal) -> None:
        journal.check_and_go_on(node)
        for number in range(self.earlier):
            assert settled(node, f"before/{number:05}")[0] == 200, f"before/{number:05} is lost"


class Pair(Single):
    """Two of three nodes, so that every write needs both; one is killed. In the end the other one is gone for good.

    The third, which has nothing yet, and the one that was killed then have to have every acknowledged write.
    """

    victim = ""

    def run(self, directory: Path, wrap: tuple[str, ...]) -> Outcome:
        with cluster_in(directory, 3) as cluster:
            victim, other, third = self.roles(cluster)
            journal = Journal("run")
            other.start()
            victim.start(wrap=wrap)
            write_while_it_lives(victim, other, journal)
            status = ended(victim)
            acknowledged = len(journal.acknowledged)
            assert status or acknowledged >= WRITES, "it neither ended nor served"
            other.kill()
            victim.start()
            third.start()
            journal.check_and_go_on(victim)
            journal.check_and_go_on(third)
            return Outcome(status, acknowledged)

    def roles(self, cluster: Cluster) -> tuple[Node, Node, Node]:
        """(the victim, its partner, the one that comes last). Node 1 calls the first election, and mostly wins it."""
        first, second, third = cluster
        return (first, second, third) if self.victim == "leader" else (second, first, third)


class Leader(Pair):
    name = victim = "leader"


class Follower(Pair):
    name = victim = "follower"




class Receiver(Single):
    """A member with an empty disk, which needs what the others' logs have no more: killed while it takes a snapshot in.

    The snapshot comes in pieces, is verified, made ready, and takes the place of log and store; or is begun anew.
    """

    name = "receiver"
    victim = "node-3"
    earlier = 60

    def prepare(self, directory: Path) -> None:
        with cluster_in(directory, 3) as cluster:
            first, second, _ = cluster
            first.start()
            second.start()
            cluster.leader(within_s=DEADLINE_S)
            journal = Journal("before")
            write_while_it_lives(first, first, journal, self.earlier)
            kept = [write.revision > 0 for write in journal.writes]
            (directory / "before.json").write_text(json.dumps({"ports": list(cluster.ports), "kept": kept}))
            for node in (first, second):
                assert node.stop() == 0

    def concerns(self, place: Place) -> bool:
        return "/store" in place.path or place.path == self.victim or place.call in ("rename", "unlink", "rmdir")

    def run(self, directory: Path, wrap: tuple[str, ...]) -> Outcome:
        before = json.loads((directory / "before.json").read_text())
        with cluster_in(directory, 3, before["ports"]) as cluster:
            receiver, victim = cluster.nodes["node-3"], cluster.nodes[self.victim]
            for node in cluster:
                if node is receiver:
                    eventually(lambda: leads(cluster.nodes["node-1"]), within_s=DEADLINE_S, what="node-1 as the leader")
                node.start(wrap=wrap if node is victim else ())
            eventually(
                lambda: not victim.running or self.caught_up(receiver, before["kept"]),
                within_s=DEADLINE_S, what="the snapshot, or the death of the victim",
            )  # fmt: skip
            status = ended(victim)
            victim.start()
            eventually(lambda: self.caught_up(receiver, before["kept"]), within_s=DEADLINE_S, what="the snapshot")
            for number, kept in enumerate(before["kept"]):
                if kept:
                    found, _ = settled(receiver, f"before/{number:05}", "?consistency=stale")
                    assert found == 200, f"before/{number:05} is lost in the snapshot"
            journal = Journal("run")
            for node in cluster:
                journal.check_and_go_on(node)
            return Outcome(status, 0)

    def caught_up(self, node: Node, kept: list[bool]) -> bool:
        """Whether a node has the last key that was written before it came."""
        last = max(number for number, there in enumerate(kept) if there)
        try:
            return node.get(f"before/{last:05}", "?consistency=stale")[0] == 200
        except (OSError, http.client.HTTPException):
            return False


class Maker(Receiver):
    """The member that makes the snapshot, and sends it, is killed on the way: another one serves."""

    name = "maker"
    victim = "node-2"

    def concerns(self, place: Place) -> bool:
        return "/snapshots" in place.path


SCENARIOS: dict[str, Single] = {
    made.name: made for made in (Single(), Restart(), Receiver(), Maker(), Leader(), Follower())
}


class Sweep:
    """The points of one scenario, each run in a directory of its own."""

    def __init__(self, scenario: Single, directory: Path) -> None:
        self.scenario = scenario
        self._template = directory / "template"
        self._template.mkdir(parents=True)
        scenario.prepare(self._template)
        self._directory = directory / "run"

    @contextmanager
    def _fresh(self) -> Iterator[Path]:
        """A directory as `prepare` left it; always under the same name, which is the cluster's."""
        run = self._directory / "template"
        shutil.rmtree(self._directory, ignore_errors=True)
        shutil.copytree(self._template, run)
        yield run
        shutil.rmtree(self._directory)

    def count(self) -> Counter[Place]:
        """Watch a run: the places of the victim, and how often it comes by each."""
        with self._fresh() as run:
            output = run / "strace"
            outcome = self.scenario.run(run, watching(output))
            assert not outcome.reached, f"without any injection, a node failed: {run}"
            eventually(lambda: "+++ exited" in output.read_text()[-400:], within_s=DEADLINE_S, what="the trace's end")
            return places(output, run / "data")

    def points(self) -> list[Point]:
        counted = sorted((place, most) for place, most in self.count().items() if self.scenario.concerns(place))
        return [Point(place, n) for place, most in counted for n in range(1, most + 1)]

    def draw(self, seed: int, count: int) -> list[Point]:
        """So many points, of as many kinds of calls as there are."""
        rng, of_call = random.Random(seed), defaultdict[str, list[Point]](list)
        for point in self.points():
            of_call[point.place.call].append(point)
        calls = sorted(of_call)
        rng.shuffle(calls)
        return [rng.choice(of_call[calls[number % len(calls)]]) for number in range(count if calls else 0)]

    def kill(self, point: Point) -> Outcome:
        """Run, be killed at the point, start again, check."""
        return self.run(lambda data, output: killing(point, data, output))

    def run(self, wrapping: Callable[[Path, Path], tuple[str, ...]]) -> Outcome:
        """Run the victim under what `wrapping` makes of data directory and output, start it again, check."""
        with self._fresh() as run:
            return self.scenario.run(run, wrapping(run / "data", run / "strace"))


@dataclass(slots=True)
class Tally:
    """What a sweep came to."""

    points: int = 0
    unreached: list[Point] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def take(self, sweep: Sweep, point: Point) -> None:
        self.points += 1
        try:
            outcome = sweep.kill(point)
        except AssertionError as error:
            self.failures.append(f"{sweep.scenario.name}, {point}: {error}")
            return
        self.calls[point.place.call] += outcome.reached
        if not outcome.reached:
            self.unreached.append(point)

    def __str__(self) -> str:
        reached = ", ".join(f"{count} {call}" for call, count in sorted(self.calls.items()) if count)
        return (
            f"{self.points} points, {self.points - len(self.unreached)} of them reached ({reached}), "
            f"{len(self.failures)} failed"
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.crash_points", description=__doc__)
    parser.add_argument("--all", action="store_true", help="every point of every scenario: takes half an hour or more")
    parser.add_argument("--seed", type=int, default=1, help="draws the points where not all are taken")
    parser.add_argument("--count", type=int, default=10, help="so many points of each scenario")
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS), help="only these")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    chosen = parser.parse_args()
    total = Tally()
    for name in chosen.scenario or SCENARIOS:
        with tempfile.TemporaryDirectory(dir=chosen.directory) as directory:
            sweep = Sweep(SCENARIOS[name], Path(directory))
            points = sweep.points() if chosen.all else sweep.draw(chosen.seed, chosen.count)
            for number, point in enumerate(points, 1):
                failures = len(total.failures)
                total.take(sweep, point)
                verdict = "FAILED" if len(total.failures) > failures else "ok"
                print(f"{name} {number}/{len(points)} {point}: {verdict}", flush=True)
    for point in total.unreached:
        print(f"not reached: {point}")
    for failure in total.failures:
        print(f"FAILED: {failure}")
    print(total)
    return 1 if total.failures or 2 * len(total.unreached) > total.points else 0


if __name__ == "__main__":
    sys.exit(main())
