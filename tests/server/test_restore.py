"""Restores of one node: what its directory has then, and how far the archived log brings it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from fastkv._core.buffer import WriteBuffer
from fastkv._core.codes import Kind
from fastkv._core.entry import BatchBuilder, encode_command
from fastkv.config import ClusterConfig, HostPort, NodeAddress, NodeConfig, StorageSettings
from fastkv.errors import BadArchive, RestoreRefused
from fastkv.kv.store import StoreMeta
from fastkv.log_types import HardState, Segment
from fastkv.raft import Membership
from fastkv.server.restore import Plan, Target, restore
from fastkv.storage.archive import TIMES_FILE
from fastkv.storage.archive_read import find_runs
from fastkv.storage.check import check
from fastkv.storage.directory import DataDirectory
from fastkv.storage.wal import Wal
from tests.kv.test_over_lmdb import Life
from tests.storage.logs import CLUSTER, NODE, write
from tests.storage.stores import Opened
from tests.storage.streams import begin, take_all
from tests.storage.test_archive import Kept, archived, the_run
from tests.storage.test_backup_file import save

BACKUP_AT = 30
LAST = 96
BUMP = 1000


def entry(index: int) -> tuple[int, bytes]:
    """What the log has at an index: puts, some entries that change nothing, deletes, and a session's writes."""
    if index == 1:
        return Kind.ENTRY_SESSION, b"\x01\0\0\0\x00\x10\0\0"
    if index % 10 == 0:
        return Kind.NOOP, b""
    if index % 7 == 0:
        return Kind.ENTRY_DELETE, encode_command(Kind.ENTRY_DELETE, b"key %d" % (index - 1))
    session = (1, index) if index % 3 == 0 else None
    return Kind.ENTRY_PUT, encode_command(Kind.ENTRY_PUT, b"key %d" % index, b"%d " % index * 30, session=session)


@dataclass
class Old:
    """An old cluster's only node: what it has left behind, and what it had at each index."""

    backup: Path
    archive: Path
    states: dict[int, tuple[int, list[tuple[bytes, bytes]], int]]
    """Revision, content and state hash."""


class Writing:
    """A node without a network: what is written goes into the log, the archive and the state."""

    def __init__(self, kept: Kept, life: Life, states: dict[int, tuple[int, list[tuple[bytes, bytes]], int]]) -> None:
        self._kept, self._life, self._states = kept, life, states

    def go_on(self, last: int) -> None:
        for index in range(self._life.machine.applied_index + 1, last + 1):
            builder = BatchBuilder()
            builder.append(*entry(index))
            run = Segment(index, 1 + index // 50, builder.take())
            write(self._kept.wal, run)
            self._life.machine.apply(run, index, index, WriteBuffer())
            machine = self._life.machine
            self._states[index] = (machine.revision, self._life.contents(), machine.state_hash)
        self._kept.commit = last
        write(self._kept.wal, hard_state=HardState(3, "", last))


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Old:
    path = tmp_path_factory.mktemp("old")
    life = Life(path / "store", cluster=CLUSTER)
    states: dict[int, tuple[int, list[tuple[bytes, bytes]], int]] = {}
    with archived(path / "wal", path / "archive") as kept:
        writing = Writing(kept, life, states)
        writing.go_on(BACKUP_AT)
        life.start_checkpoint()
        life.finish_checkpoint()
        stream = begin(life.opened)
        backup, said = save(path, stream.info, take_all(life.opened, stream))
        writing.go_on(LAST)
        kept.until_closed_ones_are_there()
    life.machine.close()
    life.opened.store.close()
    assert (said.index, said.cluster) == (BACKUP_AT, CLUSTER)
    return Old(backup, path / "archive", states)


@pytest.fixture
def plan(old: Old, tmp_path: Path) -> Plan:
    return Plan(old.backup, config_in(tmp_path), bump=BUMP)


def config_in(directory: Path, name: str = "new", node_id: str = NODE) -> NodeConfig:
    nodes = {
        each: NodeAddress(HostPort("10.0.0.1", 9000 + number), HostPort("10.0.0.1", 8000 + number))
        for number, each in enumerate((NODE, "node-2", "node-3"))
    }
    return NodeConfig(
        node_id=node_id,
        cluster=ClusterConfig(name=name, nodes=nodes, data_dir=directory / "data"),
        storage=StorageSettings(segment_bytes=65536, memtable_bytes=65536),
    )


def meta_of(plan: Plan) -> StoreMeta:
    with reopened(plan) as opened:
        return opened.store.meta


def reopened(plan: Plan) -> Opened:
    config = plan.config
    return Opened(config.data_dir / "store", cluster=config.cluster.name, node_id=config.node_id)


def restored(plan: Plan) -> tuple[int, list[tuple[bytes, bytes]], int]:
    """Restore, and look: revision before the bump, content and state hash; all else is checked here."""
    said = restore(plan)
    config = plan.config
    with DataDirectory.open(config.data_dir, cluster=config.cluster.name, node_id=config.node_id) as directory:
        assert f"{directory.disk:016x}" == said["disk"]
        assert directory.restored == said["restored"]
    assert not check(config.data_dir).damages
    with reopened(plan) as opened:
        meta, contents = opened.store.meta, sorted(opened.contents().items())
    assert Membership.decode(meta.membership).voters == (NODE, "node-2", "node-3")
    assert Membership.decode(meta.membership).members[1].raft == "10.0.0.1:9001"
    wal = Wal(config.data_dir / "wal", cluster=config.cluster.name, node_id=NODE, keep_above=meta.applied_index,
              segment_bytes=65536)  # fmt: skip
    with_log = (wal.recovered.base_index, wal.recovered.last_index, wal.recovered.base_term)
    wal.close()
    assert with_log == (meta.applied_index, meta.applied_index, meta.applied_term)
    assert meta.applied_index == said["index"] + BUMP == said["first_index"] - 1
    assert meta.revision == said["revision"] + BUMP == said["first_revision"] - 1
    assert sorted(path.name for path in config.data_dir.parent.iterdir()) == [config.node_id]
    return meta.revision - BUMP, contents, meta.state_hash


def test_a_backup_alone(old: Old, plan: Plan) -> None:
    assert restored(plan) == old.states[BACKUP_AT]


def test_on_to_the_end_of_the_archive(old: Old, plan: Plan) -> None:
    assert restored(replace(plan, archive=old.archive)) == old.states[LAST]
    assert meta_of(plan).applied_term == 1 + LAST // 50


@pytest.mark.parametrize("index", [BACKUP_AT, BACKUP_AT + 1, 49, 50, 77, LAST - 1, LAST])
def test_on_to_an_entry(old: Old, plan: Plan, index: int) -> None:
    assert restored(replace(plan, archive=old.archive, target=Target(index=index))) == old.states[index]


def test_on_to_a_revision(old: Old, plan: Plan) -> None:
    first, last = old.states[BACKUP_AT][0], old.states[LAST][0]
    for number, revision in enumerate((first, first + 1, first + 20, last)):
        one = replace(plan, config=config_in(plan.config.data_dir / str(number)))
        found = restored(replace(one, archive=old.archive, target=Target(revision=revision)))
        assert found in old.states.values()
        assert found[0] == revision


def test_on_to_a_time(old: Old, plan: Plan, tmp_path: Path) -> None:
    times = the_run(old.archive) / TIMES_FILE
    before = times.read_text()
    times.write_text("100.000 20\n200.000 40\n300.000 60\n")
    try:
        plan = replace(plan, archive=old.archive)
        for at, index in ((200.0, 40), (299.0, 40), (300.5, 60)):
            one = replace(plan, config=config_in(tmp_path / str(at)), target=Target(time=at))
            assert restored(one) == old.states[index]
        with pytest.raises(RestoreRefused, match="that time is before; take an older one"):
            restore(replace(plan, target=Target(time=150.0)))
    finally:
        times.write_text(before)


@pytest.mark.parametrize(
    ("target", "error", "says"),
    [
        (Target(index=BACKUP_AT - 1), RestoreRefused, "take an older one"),
        (Target(index=LAST + 1), BadArchive, f"ends with entry {LAST}, before entry {LAST + 1}"),
        (Target(revision=3), RestoreRefused, "take an older one"),
        (Target(revision=10_000), BadArchive, "ends with revision"),
    ],
)
def test_a_target_that_cannot_be_reached(
    old: Old, plan: Plan, target: Target, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        restore(replace(plan, archive=old.archive, target=target))
    assert_nothing_left(plan)
    with pytest.raises(RestoreRefused, match="the archive of the log is needed"):
        restore(replace(plan, target=target))


def test_archives_that_do_not_go_on_where_the_backup_ends(old: Old, plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(BadArchive, match="is no archive"):
        restore(replace(plan, archive=tmp_path))
    with archived(tmp_path / "wal", tmp_path / "short") as kept:
        kept.fill(BACKUP_AT - 1)
    with pytest.raises(BadArchive, match=r"has entries \d+ to 29, and the backup ends with 30"):
        restore(replace(plan, archive=tmp_path / "short"))
    about = the_run(tmp_path / "short") / "archive.json"
    about.write_text(about.read_text().replace('"cluster"', '"was"').replace("{", '{"cluster": "till", ', 1))
    with pytest.raises(BadArchive, match="another node or cluster"):
        restore(replace(plan, archive=tmp_path / "short"))
    assert_nothing_left(plan)


def test_what_is_wrong_with_one_run_does_not_keep_from_another(old: Old, plan: Plan, tmp_path: Path) -> None:
    both = tmp_path / "archive"
    with archived(tmp_path / "wal", both, disk=1) as kept:
        kept.fill(5)
    (run,) = find_runs(old.archive)
    (both / NODE / run.name).symlink_to(run)
    assert restored(replace(plan, archive=both)) == old.states[LAST]


def test_what_was_done_once_in_a_session_is_remembered(old: Old, plan: Plan) -> None:
    restore(replace(plan, archive=old.archive))
    with reopened(plan) as opened:
        (key, _), = opened.store.sessions()
    assert int.from_bytes(key, "big") == 1


def test_nodes_of_one_restore_bear_the_same_mark_and_those_of_another_another(old: Old, plan: Plan) -> None:
    def said(node_id: str, where: str, **changed: Any) -> dict[str, Any]:
        config = config_in(plan.config.data_dir / where, node_id=node_id)
        return restore(replace(plan, config=config, **changed))

    first, second = said(NODE, "a"), said("node-2", "b")
    assert first["restored"] == second["restored"]
    assert first["disk"] != second["disk"]
    assert said(NODE, "c", bump=BUMP + 1)["restored"] != first["restored"]
    assert said(NODE, "d", archive=old.archive)["restored"] != first["restored"]


def test_a_directory_that_is_not_empty_is_left_as_it_is(plan: Plan) -> None:
    plan.config.data_dir.mkdir(parents=True)
    (plan.config.data_dir / "mine").write_text("mine")
    with pytest.raises(RestoreRefused, match="is not empty"):
        restore(plan)
    assert [path.read_text() for path in plan.config.data_dir.iterdir()] == ["mine"]


def test_what_a_killed_restore_has_left_is_removed(old: Old, plan: Plan) -> None:
    left = plan.config.data_dir.with_name(f".{NODE}.restoring")
    with DataDirectory.open(left, cluster="new", node_id=NODE):
        with pytest.raises(RestoreRefused, match="another restore is under way"):
            restore(plan)
        assert left.exists()
    assert restored(plan) == old.states[BACKUP_AT]


def assert_nothing_left(plan: Plan) -> None:
    parent = plan.config.data_dir.parent
    assert not parent.exists() or list(parent.iterdir()) == []
