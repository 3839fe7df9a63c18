"""Every golden script comes out as it is written; see `tests.raft.script`."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastkv.raft import InvariantBroken, Raft, leader, quorum
from tests.raft.script import SCRIPTS, replay

ALL = sorted(SCRIPTS.glob("*.txt"))


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    text = path.read_text()
    assert replay(text) == text


def test_there_is_a_script_for_each_behaviour() -> None:
    assert len(ALL) >= 18


@pytest.mark.parametrize("name", ["figure_8", "old_term_waits"])
def test_a_commit_of_an_old_term_shows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bug of the paper's figure 8, brought back: the scripts that are there for it come out differently."""

    def maybe_commit(raft: Raft) -> None:
        matches = {peer: progress.match for peer, progress in raft.progress.items()}
        matches[raft.node_id] = raft.log.durable_index
        index = quorum.reached(raft.membership.voters, matches)
        if index > raft.commit_index:
            raft.commit_to(index)
            raft.uncommitted.committed(index)
            raft.reads.committed()

    monkeypatch.setattr(leader, "maybe_commit", maybe_commit)
    text = (SCRIPTS / f"{name}.txt").read_text()
    try:
        outcome = replay(text)
    except InvariantBroken as broken:       # a committed entry would have been replaced
        outcome = str(broken)
    assert outcome != text
