"""`fastkv check`: what it says of a data directory, its exit statuses, and that it changes nothing."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.damage import NODE, State, copied, make


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State]:
    path = tmp_path_factory.mktemp("check") / "made"
    return path, make(path, entries=120, seed=3)[0]


@pytest.fixture
def data(made: tuple[Path, State], tmp_path: Path) -> Path:
    return copied(made[0], tmp_path / "copy") / NODE


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastkv", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


def answered(*arguments: str | Path, status: int) -> dict[str, Any]:
    ended = run(*arguments, "--json")
    assert ended.returncode == status, (ended.stdout, ended.stderr)
    said: dict[str, Any] = json.loads(ended.stdout)
    return said


def content(path: Path) -> dict[str, bytes]:
    files = (file for file in path.rglob("*") if file.is_file() and file.name != "LOCK")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def test_a_whole_directory(data: Path, made: tuple[Path, State]) -> None:
    before = content(data)
    said = answered("check", data, status=0)
    state = made[1]
    assert said["whole"]
    assert said["damages"] == []
    assert said["identity"]["node_id"] == NODE
    assert said["identity"]["disk"] == state.disk
    assert (said["log"]["last_index"], said["log"]["term"], said["log"]["vote"]) == (120, state.term, NODE)
    assert sum(segment["records"] > 0 for segment in said["log"]["segments"]) > 2
    assert said["store"]["applied_index"] == 80
    assert said["store"]["content_checked"]
    assert content(data) == before
    text = run("check", data).stdout
    assert "entries 1 to 120" in text
    assert "applied up to entry 80" in text
    assert "no damage was found" in text


def test_damage_is_said_with_file_offset_meaning_and_what_to_do(data: Path) -> None:
    flip(data / "wal" / f"{1:016x}.wal", 5000)
    flip(data / "store" / "data.mdb", 4096 * 2)
    before = content(data)
    said = answered("check", data, status=1)
    assert {damage["file"] for damage in said["damages"]} == {f"wal/{1:016x}.wal", "store/data.mdb"}
    assert all(damage["what"] and damage["means"] for damage in said["damages"])
    assert said["repair"]["kind"] == "new member"
    ended = run("check", data)
    assert ended.returncode == 1
    assert f"wal/{1:016x}.wal at byte " in ended.stdout
    assert "store/data.mdb at byte 8192" in ended.stdout
    assert f"fastkv repair {data}" in ended.stdout
    assert content(data) == before


@pytest.mark.parametrize("name", ["snapshots/1.image", "store.ready/data.mdb"])
def test_a_damaged_snapshot_beside_a_whole_store(data: Path, name: str) -> None:
    (data / name).parent.mkdir()
    (data / name).write_bytes((data / "store" / "data.mdb").read_bytes())
    assert [copy["applied_index"] for copy in answered("check", data, status=0)["snapshots"]] == [80]
    (data / name).write_bytes((data / "store" / "data.mdb").read_bytes()[:20_000])
    said = answered("check", data, status=1)
    assert {damage["part"] for damage in said["damages"]} == {"copy"}
    assert said["repair"]["kind"] == "copies"
    assert answered("repair", data, "--yes", status=0)["set_aside_in"]
    assert answered("check", data, status=0)["whole"]


@pytest.mark.parametrize("change", ["cut", "flip the disk", "gone"])
def test_an_identity_that_cannot_be_believed(data: Path, change: str) -> None:
    path = data / "identity.json"
    text = path.read_text()
    if change == "gone":
        path.unlink()
    else:
        path.write_text(text[:40] if change == "cut" else text.replace('"disk": ', '"disk": 1'))
    said = answered("check", data, status=1)
    assert [damage["part"] for damage in said["damages"]] == ["identity"]
    assert said["damages"][0]["file"] == "identity.json"


def test_what_is_no_data_directory_and_what_is_in_use(data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nowhere"):
        assert answered("check", path, status=2)["code"] == "NO_DATA_DIRECTORY"
        assert answered("repair", path, "--yes", status=2)["code"] == "NO_DATA_DIRECTORY"
    fd = os.open(data / "LOCK", os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert answered("check", data, status=2)["code"] == "DIRECTORY_IN_USE"
        assert answered("repair", data, "--yes", status=2)["code"] == "DIRECTORY_IN_USE"
        assert "stop the node first" in run("check", data).stderr
    finally:
        os.close(fd)


def test_a_repair_needs_a_yes_and_damage(data: Path) -> None:
    assert answered("repair", data, "--yes", status=0)["whole"]
    flip(data / "store" / "data.mdb", 4096 * 2)
    before = content(data)
    assert answered("repair", data, status=2)["code"] == "NOT_CONFIRMED"
    assert "say --yes" in run("repair", data).stderr
    assert content(data) == before


def test_without_the_cluster_the_commands_are_named(data: Path) -> None:
    flip(data / "wal" / f"{1:016x}.wal", 5000)
    ended = run("repair", data, "--yes")
    assert ended.returncode == 0, ended.stderr
    assert f"fastkv member remove {NODE}" in ended.stdout
    assert f"fastkv member add {NODE}" in ended.stdout
    identity = json.loads((data / "identity.json").read_text())
    assert identity["joins"] is True
    left = sorted(path.name for path in data.iterdir() if not path.name.startswith("damaged-"))
    assert left == ["LOCK", "identity.json"]
