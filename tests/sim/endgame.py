"""What is looked at once the faults have stopped: convergence, states, what clients have seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkv.chaos.linearizability import Verdict, check
from fastkv.raft import LEADER
from tests.reference.state_machine import State
from tests.sim.truth import Violation

if TYPE_CHECKING:
    from tests.sim.process import Process
    from tests.sim.world import World


def members(world: World) -> list[Process]:
    """The processes of all members; those that are down are left out."""
    machines = [world.machines[member.node_id] for member in world.truth.membership.members]
    return [machine.process for machine in machines if machine.process is not None]


def converged(world: World) -> bool:
    """One leader, and every member has applied the whole of its log."""
    rafts = [process.raft for process in members(world)]
    leaders = [raft for raft in rafts if raft.role == LEADER]
    return (
        len(rafts) == len(world.truth.membership.members)
        and len(leaders) == 1
        and all(raft.applied_index == leaders[0].log.last_index for raft in rafts)
    )


def check_states(world: World) -> None:
    """Every node's content is what a plain model makes of the log."""
    model = State()
    model.apply([(entry.kind, bytes(entry.body)) for _, entry in world.truth.applied])
    wanted = [(key, record.encode()) for key, record in sorted(model.records.items())]
    for process in members(world):
        state = process.state
        with state.open_snapshot() as snapshot:
            found = list(snapshot.items())
        if found != wanted or state.revision != model.revision or state.key_count != len(wanted):
            raise Violation(f"{process.node_id} has another state than the log makes: {found}, not {wanted}")


def check_stale_reads(world: World) -> None:
    """A stale read says of which state it is; it has to be that state's."""
    reads = sorted(world.seen.stale, key=lambda read: read.applied_index)
    model, applied = State(), 0
    for read in reads:
        while applied < read.applied_index:
            entry = world.truth.applied[applied][1]
            model.apply_one(entry.kind, bytes(entry.body))
            applied += 1
        record = model.records.get(read.key.encode())
        wanted = (None, 0) if record is None else (record.value.decode(), record.mod_revision)
        if (read.value, read.revision) != wanted:
            raise Violation(f"{read} is of another state than it says: that one has {wanted}")


def check_history(world: World) -> None:
    """The clients' history is linearizable."""
    result = check(world.history)
    if result.verdict is Verdict.LINEARIZABLE:
        return
    if result.key is None:
        raise Violation(f"revisions contradict each other: {result.contradiction}")
    raise Violation(f"the history of {result.key} is not linearizable ({result.verdict.value})", key=result.key)
