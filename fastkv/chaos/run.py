"""One run: a cluster is started, clients and faults are let loose on it, and then it is looked at what is left.

What a run leaves in its directory: `history.jsonl`, `verdict.json`, `timeline.json`, `timeline.png`, and of each node
its log, its configuration and its data.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from fastkv.chaos import verdict
from fastkv.chaos.agreement import agree
from fastkv.chaos.chart import draw
from fastkv.chaos.clients import Load
from fastkv.chaos.cluster import Cluster, ClusterError
from fastkv.chaos.faults import FAULTS, Step, World
from fastkv.chaos.history import Recorder, read_history
from fastkv.chaos.judge import Judgement, judge, too_little
from fastkv.chaos.linearizability import Verdict
from fastkv.chaos.modes import MODES, schedule
from fastkv.chaos.namespaces import Namespaces
from fastkv.chaos.network import MissingError, Network, Proxies
from fastkv.chaos.progress import Progress
from fastkv.chaos.record import LeaderKill, RunRecord, Taken
from fastkv.chaos.timeline import timeline
from fastkv.chaos.watch import Watch

HISTORY = "history.jsonl"
BEFORE_S = 0.5
"""How long clients work before the first fault can come."""
LONGEST_EXTRA_S = 120.0
"""How much longer than asked for a run may last, where it has not tried enough yet: a slow machine is no excuse."""
LOOK_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run, and where it leaves what it finds."""

    mode: str
    seconds: float
    seed: int
    nodes: int
    network: str
    directory: Path


async def run(plan: Plan, progress: Progress) -> Judgement:
    """Run it, and judge it. ClusterError where the cluster does not even start; MissingError where a tool is not there.

    Cancelled, it leaves no process behind, and no verdict.
    """
    names = [f"node-{number}" for number in range(1, plan.nodes + 1)]
    network: Network = Namespaces(names) if plan.network == "namespaces" else Proxies(names, seed=plan.seed)
    record = RunRecord(plan.mode, plan.seed, names, plan.network)
    cluster = Cluster(plan.directory, network, log_bytes=MODES[plan.mode].log_bytes)
    try:
        await network.start()
        progress.say(f"{plan.mode}, seed {plan.seed}: starting {plan.nodes} nodes in {plan.directory}")
        await cluster.start()
        with Recorder(plan.directory / HISTORY) as recorder:
            await _Run(plan, record, cluster, recorder, progress).carry_out()
        await _stop_all(cluster, record)
    finally:
        cluster.kill_all()
        await network.close()
    progress.state("searching the history for what cannot be")
    record.linearizable, record.explanation = examined(plan.directory / HISTORY)
    judgement = judge(record)
    _leave(plan, record, judgement, progress)
    return judgement


async def _stop_all(cluster: Cluster, record: RunRecord) -> None:
    """A clean stop of every node, which has to be one."""
    for node in cluster.nodes.values():
        try:
            status = await node.stop()
        except ClusterError as error:
            record.ended_by_themselves.append(str(error))
        else:
            if status != 0:
                text = f"{node.name} was asked to stop, and ended with status {status}; see {node.log_path}"
                record.ended_by_themselves.append(text)


def examined(path: Path) -> tuple[bool | None, str]:
    """Whether a history is linearizable, None where nobody can tell; and what shows that it is not."""
    report = verdict.judge(read_history(path))
    known = {Verdict.LINEARIZABLE: True, Verdict.VIOLATION: False}.get(report.verdict)
    return known, "" if known else "\n".join(report.lines())


def _leave(plan: Plan, record: RunRecord, judgement: Judgement, progress: Progress) -> None:
    """The files beside the history."""
    drawn = timeline(record)
    (plan.directory / "timeline.json").write_text(json.dumps(drawn) + "\n")
    (plan.directory / "verdict.json").write_text(json.dumps(judgement.as_dict(), indent=2) + "\n")
    try:
        draw(drawn, plan.directory / "timeline.png")
    except MissingError as missing:
        progress.say(str(missing))
    if judgement.passed:
        shutil.rmtree(plan.directory / "data")


class _Run:
    """The time in which clients and faults are at work, and the look at the cluster after it."""

    def __init__(
        self, plan: Plan, record: RunRecord, cluster: Cluster, recorder: Recorder, progress: Progress
    ) -> None:
        self._plan = plan
        self._mode = MODES[plan.mode]
        self._record = record
        self._cluster = cluster
        self._progress = progress
        self._began = time.monotonic()
        self._world = World(cluster)
        self._load = Load(cluster, self._mode.crowd, recorder, seed=plan.seed, seconds=plan.seconds)
        self._watch = Watch(cluster, self._now)
        self._doing = ""

    def _now(self) -> float:
        return time.monotonic() - self._began

    async def carry_out(self) -> None:
        """All of it."""
        record, cluster = self._record, self._cluster
        self._began = time.monotonic()
        self._load.start()
        self._watch.start()
        try:
            await self._let_loose()
            record.seconds = self._now()
            self._progress.state("waiting for the last answers")
            await self._load.stop()
        except BaseException:
            await self._load.abort()
            raise
        finally:
            await self._watch.stop()
        self._take_down()
        self._progress.state("looking whether all nodes agree")
        record.agreement = await agree(cluster, self._load.once)
        if not record.agreement.divergence:
            await self._load.read_back(cluster.endpoints)
        cluster.look()
        record.ended_by_themselves += cluster.ended_by_themselves

    def _take_down(self) -> None:
        """What was observed, by the run's own time."""
        record, began = self._record, self._began
        record.samples = [s._replace(began=s.began - began, ended=s.ended - began) for s in self._load.samples]
        record.kills = [LeaderKill(killed - began, again - began) for killed, again in self._world.leader_kills]
        record.overlapping = self._load.overlapping
        record.reigns, record.resources = self._watch.reigns, self._watch.samples

    # -- faults --------------------------------------------------------------------------------------------------------

    async def _let_loose(self) -> None:
        """Fault after fault until the time is up, and enough was tried."""
        faults = asyncio.create_task(self._faults())
        try:
            while not faults.done():
                self._load.look()
                self._show()
                await asyncio.wait((faults,), timeout=LOOK_EVERY_S)
            await faults
        except ClusterError as error:
            self._record.trouble.append(f"{error}, {self._doing}")
        finally:
            faults.cancel()
            await asyncio.gather(faults, return_exceptions=True)

    async def _faults(self) -> None:
        plan = self._plan
        await asyncio.sleep(BEFORE_S)
        for step in schedule(self._mode, plan.seed, self._cluster.network.abilities):
            if self._now() + step.gap_s + step.hold_s > plan.seconds and self._tried_enough():
                break
            if self._now() > plan.seconds + LONGEST_EXTRA_S:
                break
            await asyncio.sleep(step.gap_s)
            await self._take(step)
        await asyncio.sleep(max(0.0, plan.seconds - self._now()))

    def _tried_enough(self) -> bool:
        """Whether the verdict could be a pass, as far as it hangs on how much was tried."""
        record = self._record
        record.seconds = max(self._now(), self._plan.seconds)
        record.overlapping = self._load.overlapping
        record.agreement.acknowledged = len(self._load.once)
        return not too_little(record)

    async def _take(self, step: Step) -> None:
        """One fault, from its beginning until all is well again."""
        fault, network = FAULTS[step.kind], self._cluster.network
        before, began = await network.withheld(), self._now()
        self._doing = f"after {step.kind} at {began:.1f} s"
        who = await fault.act(self._world, step)
        withheld = await network.withheld() - before
        await self._cluster.agreed_leader()
        counts = withheld > 0 or not fault.meets_traffic
        taken = Taken(step.kind, who, began, self._now(), withheld, counts)
        self._record.taken.append(taken)
        without = "" if counts else ", which met no traffic"
        self._progress.say(f"{taken.began:7.1f} s  {taken.kind} ({who}), {taken.ended - taken.began:.1f} s{without}")

    def _show(self) -> None:
        counted = self._load.outcomes
        reigns = self._watch.reigns
        self._progress.state(
            f"{self._now():6.0f} of {self._plan.seconds:.0f} s, {len(self._load.samples):,} operations "
            f"({counted['failed']} failed, {counted['unknown']} unknown), {len(self._record.taken)} faults, "
            f"leader {(reigns[-1].leader if reigns else '') or 'none'}"
        )
