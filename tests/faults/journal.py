"""What a writer was told, and whether a node agrees: nothing acknowledged is lost, nothing refused was done."""

from __future__ import annotations

import http.client
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.cluster import Node, eventually

DEADLINE_S = 60.0
"""For whatever has to come about, on a machine however busy."""
NOT_DONE = (429, 503, 507)
"""HTTP's answers for what was provably not done: OVERLOADED, NO_LEADER and SHUTTING_DOWN, NO_SPACE."""


@dataclass(slots=True)
class Write:
    """One write of a key that no other write has."""

    key: str
    value: str
    revision: int = 0
    """As acknowledged; 0 where it was not."""
    refused: bool = False
    """Whether it was said not to have been done."""


@dataclass(slots=True)
class Journal:
    """One writer, and what it was told."""

    name: str
    value_bytes: int = 6000
    writes: list[Write] = field(default_factory=list)

    def write(self, node: Node) -> int:
        """Write the next key; the status, or 0 where there was no answer."""
        number = len(self.writes)
        write = Write(f"{self.name}/{number:05}", f"{self.name} {number} ".ljust(self.value_bytes, "x"))
        self.writes.append(write)
        try:
            status, answer = node.put(write.key, write.value)
        except (OSError, http.client.HTTPException):
            return 0
        if status in (200, 201):
            write.revision = int(answer["revision"])
        write.refused = status in NOT_DONE
        return status

    @property
    def acknowledged(self) -> list[Write]:
        return [write for write in self.writes if write.revision]

    def check(self, node: Node, query: str = "") -> None:
        """Compare with what a node says now. AssertionError where it says anything else."""
        for write in self.writes:
            status, answer = settled(node, write.key, query)
            if write.revision:
                assert status == 200, f"{write.key} was acknowledged at revision {write.revision} and is lost: {answer}"
                assert answer["revision"] == write.revision, f"{write.key}: {answer['revision']} != {write.revision}"
            assert not (write.refused and status == 200), f"{write.key} was refused as not done, and is there"
            assert status == 404 or answer["value"] == write.value, f"{write.key} has another value"
        revisions = [write.revision for write in self.acknowledged]
        assert revisions == sorted(set(revisions)), f"revisions do not rise: {revisions}"

    def check_and_go_on(self, node: Node) -> None:
        """The same, and the node takes further writes, whose revisions lie above all that it acknowledged before."""
        self.check(node)
        status = eventually(lambda: self.write(node) in (200, 201), within_s=DEADLINE_S, what="a write that succeeds")
        assert status
        revisions = [write.revision for write in self.acknowledged]
        assert revisions == sorted(set(revisions)), f"revisions do not rise: {revisions}"


def settled(node: Node, key: str, query: str = "") -> tuple[int, Any]:
    """What a node answers to a read once it answers."""

    def asked() -> tuple[int, Any] | None:
        try:
            status, answer = node.get(key, query)
        except (OSError, http.client.HTTPException):
            assert node.running, f"{node.node_id} has ended; see {node.log_path}"
            return None
        return (status, answer) if status in (200, 404) else None

    return eventually(asked, within_s=DEADLINE_S, what=f"an answer of {node.node_id} about {key}")
