"""Many places, seeded: a start believes no damage, and `fastkv check` says what a start does. See `sweep`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fastkv.storage.check import check, locked
from fastkv.storage.wal_format import parse_segment_header
from tests.faults.damage import NODE, copied, make

SEEDS = 200
LIMIT_S = 300


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 20)
def test_damage_is_refused_or_costs_nothing_wherever_it_is() -> None:
    command = [sys.executable, "-m", "tests.faults.sweep", "--count", str(SEEDS)]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, cwd=root, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    outcomes = json.loads(ended.stdout)
    assert sum(outcomes.values()) == SEEDS
    for kind in ("cut", "flip", "zero", "swap", "copy", "garbage"):
        assert outcomes[f"{kind}: refused"] > 0, "it found nothing to refuse"
    assert outcomes["flip: recovered"] > 0, "it damaged nothing that is not needed"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "pristine"
    make(path, entries=120, seed=9)
    return path


def test_every_cut_of_the_last_records_is_seen(pristine: Path, tmp_path: Path) -> None:
    """Of the last segment that was begun, from its last three records on, at every 7th byte, and around each record."""
    path = copied(pristine, tmp_path / "copy") / NODE
    last = max(file for file in (path / "wal").glob("*.wal") if parse_segment_header(file.read_bytes()) is not None)
    data = last.read_bytes()
    with locked(path):
        end = check(path).log.segments[-2].end
    for at in [*range(end - 600, end + 20, 7), len(data) - 1]:
        last.write_bytes(data[:at])
        with locked(path):
            damages = check(path).damages
        assert (damages[0].path, damages[0].part, damages[0].offset) == (last, "log", at)


def test_every_damage_of_a_log_is_told_and_not_only_the_first(pristine: Path, tmp_path: Path) -> None:
    path = copied(pristine, tmp_path / "copy") / NODE
    segments = sorted((path / "wal").glob("*.wal"))
    for file, at in ((segments[0], 3000), (segments[0], 30_000), (segments[1], 10)):
        data = bytearray(file.read_bytes())
        data[at] ^= 1
        file.write_bytes(data)
    with locked(path):
        damages = check(path).damages
    first, second = (damage.offset for damage in damages if damage.path == segments[0])
    assert 0 <= 3000 - first < 7000
    assert 0 <= 30_000 - second < 7000
    assert [damage.offset for damage in damages if damage.path == segments[1]] == [0]


def test_every_damage_of_a_store_is_told_and_not_only_the_first(pristine: Path, tmp_path: Path) -> None:
    path = copied(pristine, tmp_path / "copy") / NODE
    file = path / "store" / "data.mdb"
    data = bytearray(file.read_bytes())
    data[3 * 4096 : 4 * 4096] = bytes(4096)
    used = [at for at in range(4 * 4096, len(data), 4096) if data[at + 10] in (1, 2)][-3:]
    for at in used:
        data[at] ^= 1
    file.write_bytes(data)
    with locked(path):
        damages = check(path).damages
    assert {damage.part for damage in damages} == {"store"}
    assert len(damages) >= 2
    assert {damage.offset for damage in damages} & set(used)
