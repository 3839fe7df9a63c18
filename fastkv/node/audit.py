"""Do the nodes' states agree? Equal applied index means equal state hash; a node whose state differs must not serve.

Each node notes its state's hash at indexes that all nodes pass (see `Table.hash_points`), and tells the others. What
the most nodes say at an index is taken for true: a node that finds itself against them raises an alarm, and serves
nothing from then on. Where there is no majority of either, nobody can tell who is wrong, and after a while all raise
it: an answer that may be false is worse than none.

The log is not in question, only what was made of it: a node with an alarm goes on replicating and voting.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping

REMEMBERED_INDEXES = 64


class Audit:
    """What the nodes say of their states. `node_id` is this node's."""

    def __init__(self, node_id: str, *, patience_ticks: int) -> None:
        self._node_id = node_id
        self._patience_ticks = patience_ticks
        self._said: OrderedDict[int, dict[str, int]] = OrderedDict()
        self._undecided_since: int | None = None
        self.alarm = ""
        """Why this node must not serve; empty when all is well."""
        self.suspects: dict[str, int] = {}
        """Nodes that differ from the most, and the index where it showed."""

    def heard(self, node_id: str, points: Iterable[tuple[int, int]]) -> None:
        """A node, this one too, says what its state's hash was at some indexes."""
        for index, digest in points:
            at = self._said.setdefault(index, {})
            at[node_id] = digest
        while len(self._said) > REMEMBERED_INDEXES:
            self._said.popitem(last=False)

    def judge(self, now: int) -> None:
        """Called now and then: compare what was said."""
        undecided = False
        for index, said in self._said.items():
            if len(said) > 1 and len(set(said.values())) > 1:
                undecided |= not self._decide(index, said)
        if not undecided:
            self._undecided_since = None
        elif self._undecided_since is None:
            self._undecided_since = now
        elif now - self._undecided_since >= self._patience_ticks:
            self.alarm = self.alarm or "the nodes' states differ, and no majority says which is right"

    def _decide(self, index: int, said: Mapping[str, int]) -> bool:
        """Whether a majority of those who spoke agrees; who does not is suspect."""
        digest, count = Counter(said.values()).most_common(1)[0]
        if 2 * count <= len(said):
            return self._node_id not in said
        for node_id, other in said.items():
            if other != digest:
                self.suspects.setdefault(node_id, index)
        if said.get(self._node_id, digest) != digest:
            self.alarm = self.alarm or f"this node's state at entry {index} differs from that of {count} other nodes"
        return True

    def accuse(self, why: str) -> None:
        """Something else has shown that this node's state is not to be believed, until a snapshot takes its place."""
        self.alarm = self.alarm or why

    def forget(self) -> None:
        """This node's state was replaced, by a snapshot: what it said before is void."""
        for said in self._said.values():
            said.pop(self._node_id, None)
        self._undecided_since = None
        self.suspects.pop(self._node_id, None)
        self.alarm = ""
