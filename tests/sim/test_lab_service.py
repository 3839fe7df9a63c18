"""The labs of MIT 6.5840, parts 4A and 4B: the key-value service is linearizable, and does each write once.

Every run ends with all that `Lab.finish` looks at: the clients' history is linearizable, and every node has the state
that the log makes.

| lab test | here |
|---|---|
| `TestBasic4A`, `TestConcurrent4A`, `TestUnreliable…4A`, `TestManyPartitions…4A`, | `test_the_service`: |
| `TestPersist…4A`, `TestSnapshotRecover…4B`, `TestSnapshotUnreliable…4B` | see `SERVICES`, by the same names |
| `TestSpeed4A`, `TestSpeed4B` | `test_an_operation_does_not_wait_for_a_heartbeat` |
| `TestOnePartition4A` | `test_a_majority_makes_progress_and_a_minority_goes_on_once_all_heals` |
| `TestSnapshotRPC4B` | `test_a_node_whose_log_is_gone_catches_up_and_serves` |
| `TestSnapshotSize4B` | `test_log_and_snapshot_stay_small_while_few_keys_are_overwritten` |
| what each of the labs looks for among appended values | `test_each_write_is_done_once` |
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import pytest

from fastkv._core.codes import Kind, Status
from fastkv._core.entry import decode_command
from fastkv.chaos.operations import FOREVER
from tests.reference.state_machine import State
from tests.seeds import seeds
from tests.sim.lab import LOG_LIMIT_BYTES, ORDERLY, SNAPSHOT_BYTES, SNAPSHOTS, UNRELIABLE, Lab
from tests.sim.network import FAIR

SEEDS = seeds(3, quick=1)
SMALL: dict[str, Any] = SNAPSHOTS | {"snapshot_log_bytes": SNAPSHOT_BYTES // 5}
"""Clients' commands are short: with so little of the log, one who misses a few of them needs a snapshot."""


class Service(NamedTuple):
    """A lab test: how many clients, and what goes wrong."""

    clients: int
    unreliable: bool = False
    crashes: bool = False
    partitions: bool = False
    snapshots: bool = False
    keys: int = 5


SERVICES = {
    "Basic": Service(1),
    "Concurrent": Service(5),
    "Unreliable": Service(5, unreliable=True),
    "UnreliableOneKey": Service(5, unreliable=True, keys=1),
    "ManyPartitionsOneClient": Service(1, partitions=True),
    "ManyPartitionsManyClients": Service(5, partitions=True),
    "PersistOneClient": Service(1, crashes=True),
    "PersistConcurrent": Service(5, crashes=True),
    "PersistConcurrentUnreliable": Service(5, unreliable=True, crashes=True),
    "PersistPartition": Service(5, crashes=True, partitions=True),
    "PersistPartitionUnreliableLinearizable": Service(15, unreliable=True, crashes=True, partitions=True, keys=7),
    "SnapshotRecover": Service(1, crashes=True, snapshots=True),
    "SnapshotRecoverManyClients": Service(20, crashes=True, snapshots=True),
    "SnapshotUnreliable": Service(5, unreliable=True, snapshots=True),
    "SnapshotUnreliableRecover": Service(5, unreliable=True, crashes=True, snapshots=True),
    "SnapshotUnreliableRecoverConcurrentPartition": Service(5, True, True, True, True),
    "SnapshotUnreliableRecoverConcurrentPartitionLinearizable": Service(15, True, True, True, True, keys=7),
}
NAMES = [pytest.param(name, marks=pytest.mark.slow) if at.clients > 15 else name for name, at in SERVICES.items()]


def run(lab: Lab, service: Service) -> None:
    """Three times: clients work while what is to go wrong does; then all is whole for a while."""
    lab.ready()
    lab.network.weather = UNRELIABLE if service.unreliable else FAIR
    lab.serve(service.clients)
    for _ in range(3):
        for _ in range(5):
            if service.partitions:
                left = [machine for machine in lab.all if lab.rng.random() < 0.5]
                lab.split(left, lab.others(*left))
            lab.pass_time(1 + 2 * lab.rng.random())
        lab.join(*lab.all)
        if service.crashes:
            lab.crash(*lab.all)
            lab.pass_time(1)        # clients find nobody there
            lab.start(*lab.all)
        lab.pass_time(5)
    lab.finish()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_the_service(name: str, seed: int) -> None:
    service = SERVICES[name]
    tuning = SMALL if service.snapshots else {}
    lab = Lab(seed, nodes=5, keys=service.keys, **tuning)
    run(lab, service)
    assert lab.answered > 10 * service.clients
    if service.snapshots:
        assert all(machine.disk.durable.base_index for machine in lab.all), "all have cut their logs"


@pytest.mark.parametrize("tuning", [{}, SMALL], ids=["log", "snapshots"])
@pytest.mark.parametrize("seed", SEEDS)
def test_an_operation_does_not_wait_for_a_heartbeat(seed: int, tuning: dict[str, Any]) -> None:
    """A lone client's operations take less than a third of a heartbeat interval, as in the labs: on fast machines."""
    quick = {"turn_us": 500, "wire_us": 200, "fsync_us": 500, "election_ticks": 8, "heartbeat_ticks": 2}
    lab = Lab(seed, **ORDERLY | quick | tuning)
    leader = lab.ready()
    begin, operations = lab.events.now, 200
    for _ in range(operations):
        put = lab.put(leader)
        lab.wait(lambda put=put: put.status == Status.OK, "an answer", step_us=100)
    assert (lab.events.now - begin) / operations < lab.plan.tick_us * lab.plan.heartbeat_ticks / 3


@pytest.mark.parametrize("seed", seeds(6))
def test_a_majority_makes_progress_and_a_minority_goes_on_once_all_heals(seed: int) -> None:
    lab = Lab(seed, nodes=5, operations=(("get", 1), ("put", 1)), session_limit=1000)
    leader = lab.ready()
    lab.serve(2)
    lab.wait(lambda: lab.answered > 20, "answers")
    minority = [leader, lab.others(leader)[0]]
    majority = lab.others(*minority)
    lab.split(majority, minority)
    for client in lab.clients:
        client.stopped = True
    lab.wait(lambda: all(client.idle for client in lab.clients), "the last answers, by the majority")
    lab.pass_time(4)            # until then a lease may hold, by which the leader that was answers reads
    before = lab.answered
    shut_in = lab.serve(2, minority)
    lab.pass_time(20)
    assert lab.answered == before, "an answer without a majority"
    lab.serve(2, majority)
    lab.wait(lambda: lab.answered > before + 20, "answers on the side of the majority")
    lab.join(*lab.all)
    names = {client.name for client in shut_in}
    lab.wait(lambda: names <= {op.client for op in lab.history if op.returned != FOREVER}, "answers to all")
    lab.finish()


@pytest.mark.parametrize("seed", seeds(6))
def test_a_node_whose_log_is_gone_catches_up_and_serves(seed: int) -> None:
    lab = Lab(seed, **SMALL)
    leader = lab.ready()
    behind, other = lab.others(leader)
    lab.agree(on=3)
    lab.cut(behind)
    for _ in range(50):
        lab.agree(on=2, nbytes=200)
        assert lab.log_bytes < LOG_LIMIT_BYTES
    assert leader.disk.durable.base_index > behind.disk.durable.last_index, "what it needs is cut"
    lab.split([leader, behind], [other])        # now it is needed
    lab.agree(5, on=2)
    assert lab.snapshots_installed == 1
    lab.cut(leader)
    lab.join(other)
    lab.agree(5, on=2)
    lab.finish()


@pytest.mark.parametrize("seed", seeds(6))
def test_log_and_snapshot_stay_small_while_few_keys_are_overwritten(seed: int) -> None:
    lab = Lab(seed, **SMALL)
    behind = lab.others(lab.ready())[0]
    lab.cut(behind)
    written = 0
    while written < 40 * SNAPSHOT_BYTES:
        lab.agree(2, on=2, nbytes=200)
        written += 400
        assert lab.log_bytes < LOG_LIMIT_BYTES
    lab.join(behind)
    lab.agree(on=3)
    assert behind.process is not None
    _, fetched = behind.process.node.snapshot_bytes
    assert 0 < fetched < 5 * SNAPSHOT_BYTES, "five keys of 200 bytes, and members; perhaps in two versions"
    lab.finish()


# -- exactly once ------------------------------------------------------------------------------------------------------


def changes(lab: Lab) -> Counter[tuple[int, int]]:
    """How often each write of a session changed the state, by what a plain model makes of the log."""
    model, changed = State(), Counter[tuple[int, int]]()
    for _, entry in lab.truth.applied:
        before = model.revision
        model.apply_one(entry.kind, bytes(entry.body))
        if entry.kind == Kind.ENTRY_PUT:
            session = decode_command(entry.kind, entry.body).session
            assert session is not None
            changed[session] += model.revision - before
    return changed


@pytest.mark.parametrize(
    "service", [Service(5, unreliable=True), Service(5, True, True, True, True)], ids=["unreliable", "everything"]
)
@pytest.mark.parametrize("seed", SEEDS)
def test_each_write_is_done_once(seed: int, service: Service) -> None:
    """The log has some of them twice, where an answer was lost; the second time nothing happens."""
    tuning = SMALL if service.snapshots else {}
    lab = Lab(seed, nodes=5, operations=(("put", 1),), session_limit=1000, **tuning)
    run(lab, service)
    commands = lab.commands()
    assert max(Counter(command.session for command in commands).values()) > 1, "none was sent again: that shows nothing"
    assert lab.snapshots_installed or not service.snapshots
    changed = changes(lab)
    assert max(changed.values()) == 1
    sessions = {command.value.decode(): command.session for command in commands}
    acknowledged = lab.acknowledged()
    assert len(acknowledged) > 20
    assert all(changed[sessions[value]] == 1 for value in acknowledged)
