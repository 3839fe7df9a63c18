"""The labs of MIT 6.5840, part 3D: snapshots take the place of the log, and of what a follower has missed.

| lab test | here |
|---|---|
| `TestSnapshotBasic3D` | `test_the_log_stays_short_while_commands_are_agreed_on` |
| `TestSnapshotInstall3D`, `TestSnapshotInstallUnreliable3D`, | `test_a_follower_that_was_away_gets_a_snapshot`: |
| `TestSnapshotInstallCrash3D`, `TestSnapshotInstallUnCrash3D` | "disconnect" and "crash", each on both networks |
| `TestSnapshotAllCrash3D` | `test_all_nodes_come_back_from_their_snapshots` |
| `TestSnapshotInit3D` | `test_a_node_that_comes_back_from_a_snapshot_alone_has_its_state` |
| the labs' limit on the size of a log | in all of these |

The last test is none of the labs': seed 169 of `test_whichever_minority_is_cut_off_the_others_have_a_leader` found it.
"""

from __future__ import annotations

import pytest

from tests.seeds import seeds
from tests.sim.endgame import check_states
from tests.sim.lab import LOG_LIMIT_BYTES, SNAPSHOTS, UNRELIABLE, Lab
from tests.sim.network import FAIR, Weather

SEEDS = seeds(6)

COMMAND_BYTES = 200


def agree_much(lab: Lab, *, on: int) -> int:
    """As much as a log may hold, one after the other; the last index. None was ever longer than allowed."""
    for _ in range(LOG_LIMIT_BYTES // COMMAND_BYTES):
        [last] = lab.agree(on=on, nbytes=COMMAND_BYTES)
        assert lab.log_bytes < LOG_LIMIT_BYTES
    return last


@pytest.mark.parametrize("seed", SEEDS)
def test_the_log_stays_short_while_commands_are_agreed_on(seed: int) -> None:
    lab = Lab(seed, **SNAPSHOTS)
    lab.ready()
    for _ in range(5):
        agree_much(lab, on=3)
    lab.pass_time(10)
    assert all(machine.disk.durable.base_index > 100 for machine in lab.all), "all of them have cut it"
    lab.finish()


@pytest.mark.parametrize("weather", [FAIR, UNRELIABLE], ids=["reliable", "unreliable"])
@pytest.mark.parametrize("crashes", [False, True], ids=["disconnect", "crash"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_follower_that_was_away_gets_a_snapshot(seed: int, crashes: bool, weather: Weather) -> None:
    lab = Lab(seed, **SNAPSHOTS)
    lab.ready()
    lab.network.weather = weather
    leave, come = (lab.crash, lab.start) if crashes else (lab.cut, lab.join)
    for turn in range(6):
        leader = lab.one_leader()
        victim = leader if turn % 3 == 2 else lab.others(leader)[0]
        before = lab.snapshots_installed
        leave(victim)
        last = agree_much(lab, on=2)
        assert victim not in lab.appliers(last)
        come(victim)
        lab.agree(on=3)
        assert lab.snapshots_installed > before, "what it has missed was cut, so it had no other way"
        assert lab.log_bytes < LOG_LIMIT_BYTES
    lab.finish()


@pytest.mark.parametrize("seed", SEEDS)
def test_all_nodes_come_back_from_their_snapshots(seed: int) -> None:
    lab = Lab(seed, **SNAPSHOTS)
    lab.ready()
    for _ in range(5):
        last = agree_much(lab, on=3)
        lab.crash(*lab.all)
        lab.start(*lab.all)
        assert lab.agree(on=3) > [last]
    lab.finish()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_that_comes_back_from_a_snapshot_alone_has_its_state(seed: int) -> None:
    lab = Lab(seed, checkpoint_age_ticks=10, **SNAPSHOTS | {"snapshot_log_bytes": 1})
    lab.ready()
    for turn in range(3):
        if turn:
            lab.agree(on=3)             # a single entry behind the snapshot
        else:
            agree_much(lab, on=3)
        lab.wait(lambda: all(m.stored.meta.applied_index == len(lab.truth.applied) for m in lab.all), "checkpoints")
        lab.pass_time(2)
        lab.crash(*lab.all)
        lab.start(*lab.all)
        assert [m.process and m.process.raft.applied_index for m in lab.all] == [len(lab.truth.applied)] * 3
        check_states(lab)               # before anybody has said anything
        lab.one_leader()
    lab.finish()


@pytest.mark.parametrize("seed", seeds(3))
def test_who_got_a_snapshot_from_before_the_first_note_of_members_still_votes(seed: int) -> None:
    """Two nodes cut their logs behind the leader's first entry; what it notes of the members' disks is undecided.

    The snapshot names no members then. Who forgot the founders over it would not vote, and here its vote is needed.
    """
    quick = {"turn_us": 200, "wire_us": 200, "fsync_us": 300, "detours": 0, "election_ticks": 20}
    lab = Lab(seed, nodes=5, checkpoint_age_ticks=5, **quick, **SNAPSHOTS | {"snapshot_log_bytes": 1})
    behind = lab.all[0]
    lab.cut(behind)
    lab.wait(lambda: len(lab.truth.applied) == 1, "a leader's first entry", step_us=40)
    leader = lab.leader()
    assert leader is not None
    follower, another, _ = lab.others(leader, behind)
    lab.split([leader, follower])
    lab.wait(lambda: all(m.disk.durable.base_index == 1 for m in (leader, follower)), "logs that are cut")
    lab.join(behind)
    lab.wait(lambda: lab.snapshots_installed > 0, "the snapshot", step_us=40)
    lab.crash(leader)
    lab.join(another)
    lab.agree(on=3)
