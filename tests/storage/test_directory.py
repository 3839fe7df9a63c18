"""A data directory belongs to one process at a time and to one node for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastkv.errors import DirectoryInUse, StorageError, WrongDirectory
from fastkv.storage.directory import DataDirectory
from fastkv.storage.identity import read_identity


def take(path: Path, cluster: str = "c", node_id: str = "node-1") -> DataDirectory:
    return DataDirectory.open(path, cluster=cluster, node_id=node_id)


def test_a_new_directory_is_made_with_all_above_it(tmp_path: Path) -> None:
    with take(tmp_path / "a" / "b") as directory:
        assert directory.wal_path == tmp_path / "a" / "b" / "wal"
        assert directory.wal_path.is_dir()
        assert directory.store_path.is_dir()
        said = json.loads((tmp_path / "a" / "b" / "identity.json").read_text())
        assert len(said.pop("checksum")) == 16
        assert said == {
            "format": 1,
            "cluster": "c",
            "node_id": "node-1",
            "disk": directory.disk,
        }


def test_opens_again(tmp_path: Path) -> None:
    take(tmp_path).close()
    directory = take(tmp_path)
    directory.close()
    directory.close()


def test_one_user_at_a_time(tmp_path: Path) -> None:
    with take(tmp_path), pytest.raises(DirectoryInUse, match=f"in use by process {os.getpid()}"):
        take(tmp_path)
    take(tmp_path).close()


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    script = f"""
import os, pathlib, sys
from fastkv.storage.directory import DataDirectory
DataDirectory.open(pathlib.Path({str(tmp_path)!r}), cluster="c", node_id="node-1")
print("taken", flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"taken\n"
    with pytest.raises(DirectoryInUse, match=str(child.pid)):
        take(tmp_path)
    child.kill()
    child.communicate()
    take(tmp_path).close()


def test_another_nodes_directory(tmp_path: Path) -> None:
    take(tmp_path).close()
    with pytest.raises(WrongDirectory, match="'node-1', not to node 'node-2'"):
        take(tmp_path, node_id="node-2")
    with pytest.raises(WrongDirectory, match="cluster 'c', not to cluster 'd'"):
        take(tmp_path, cluster="d")
    take(tmp_path).close()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "whose data"),
        ('{"format": 1}', "whose data"),
        ('{"format": 2, "cluster": "c", "node_id": "node-1"}', "has format 2, .* knows those up to 1"),
    ],
)
def test_an_identity_that_says_nothing_useful(tmp_path: Path, content: str, says: str) -> None:
    take(tmp_path).close()
    (tmp_path / "identity.json").write_text(content)
    with pytest.raises(StorageError, match=says):
        take(tmp_path)
    with pytest.raises(StorageError, match=says):
        take(tmp_path)      # and the lock was given back in between


def test_data_without_an_identity_is_nobodys(tmp_path: Path) -> None:
    take(tmp_path).close()
    (tmp_path / "identity.json").unlink()
    with pytest.raises(StorageError, match="no identity"):
        take(tmp_path)


def test_leftover_temporary_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "identity.tmp").write_text("half")
    with take(tmp_path):
        assert not list(tmp_path.glob("*.tmp"))
        assert (tmp_path / "identity.json").exists()


def test_a_crash_before_the_identity_is_there_leaves_a_new_directory(tmp_path: Path) -> None:
    (tmp_path / "LOCK").write_text("1\n")
    (tmp_path / "identity.tmp").write_text("{")
    take(tmp_path).close()


# -- the directory's own number ----------------------------------------------------------------------------------------


def test_each_directory_has_a_number_of_its_own_for_ever(tmp_path: Path) -> None:
    drawn = set()
    for name in ("a", "b"):
        for _ in range(2):
            with DataDirectory.open(tmp_path / name, cluster="c", node_id="n") as directory:
                drawn.add((name, directory.disk))
    assert len(drawn) == 2
    assert all(0 < disk < 1 << 63 for _, disk in drawn)


def test_a_directory_of_an_older_version_gets_one(tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_text('{"format": 1, "cluster": "c", "node_id": "n"}\n')
    with DataDirectory.open(tmp_path, cluster="c", node_id="n") as directory:
        disk = directory.disk
    assert disk > 0
    with DataDirectory.open(tmp_path, cluster="c", node_id="n") as directory:
        assert directory.disk == disk


@pytest.mark.parametrize("disk", ['"x"', "0", "-1", "null", "1.5"])
def test_a_number_that_is_none_is_refused(tmp_path: Path, disk: str) -> None:
    (tmp_path / "identity.json").write_text(f'{{"format": 1, "cluster": "c", "node_id": "n", "disk": {disk}}}\n')
    with pytest.raises(StorageError, match="disk"):
        DataDirectory.open(tmp_path, cluster="c", node_id="n")


def test_another_number_than_was_written_is_not_believed(tmp_path: Path) -> None:
    """Another disk is another node: a flipped bit must not make it one."""
    take(tmp_path).close()
    path = tmp_path / "identity.json"
    stored = path.read_bytes()
    for at in range(len(stored)):
        path.write_bytes(stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :])
        try:
            found = read_identity(path)
        except StorageError:
            continue
        assert found["format"] != 1, "another version's is not ours to judge, and is refused for its format"


def test_an_identity_without_a_checksum_is_one_of_an_older_version(tmp_path: Path) -> None:
    take(tmp_path).close()
    path = tmp_path / "identity.json"
    said = json.loads(path.read_text())
    del said["checksum"]
    path.write_text(json.dumps(said))
    with take(tmp_path) as directory:
        assert directory.disk == said["disk"]
