"""What has been decided, as seen from outside: it only grows, and every node has to agree with it at every step.

The properties of the thesis' figure 3.2, and what durability rests on. Each is checked where it can first be broken, so
that a failure points at its cause and not at what came of it a thousand events later:

* **Election Safety**: one leader a term. Checked after each turn of a node.
* **Log Matching**: an index and a term name one entry and one term before it. Checked on each append to any log, so it
  holds for whole logs by induction.
* **Leader Completeness**: a leader has every entry that was committed in an earlier term. By Log Matching the last of
  them speaks for all. Checked when a leader is first seen.
* **State Machine Safety**: one entry at an index, whoever applies it. Checked on each entry applied.
* **The commit rule** (3.6.2): a leader moves its commit index onto an entry of its own term, which a majority's disks
  have; nobody's commit index goes back.
* **Equal state** at equal applied index: checked after each turn, by the state's hash.
* **One change of members at a time**, with both majorities in between (thesis 4.3).
"""

from __future__ import annotations

from fastkv._core.codes import Kind
from fastkv._core.entry import Entry
from fastkv.log_types import Segment
from fastkv.raft import Membership, RaftLog


class Violation(AssertionError):
    """A promise is broken; the message says which. `key` is set where it is a key's history that cannot be."""

    def __init__(self, what: str, *, key: str = "") -> None:
        super().__init__(what)
        self.key = key


class Truth:
    """The one history that all nodes share."""

    def __init__(self, founders: Membership) -> None:
        self.membership = founders
        """As of the last entry that anybody has applied."""
        self.leaders: dict[int, str] = {}
        self.applied: list[tuple[int, Entry]] = []
        """Term and entry at each index from 1 on."""
        self.states: dict[int, int] = {}
        self.committed = 0
        """The highest commit index that any node has had."""
        self._committed_in: dict[int, int] = {}
        """For a term, the highest index that a node in that term has known to be committed."""
        self._runs: dict[tuple[int, int], tuple[bytes, int]] = {}
        """Segments seen: (first index, term) to their bytes and the term before."""
        self._written: dict[tuple[int, int], tuple[Entry, int]] = {}
        """Entries seen: (index, term) to the entry and the term before."""

    def leads(self, node: str, term: int, log: RaftLog) -> bool:
        """A node leads with this log. Whether that is news."""
        known = self.leaders.get(term)
        if known is not None:
            if known != node:
                raise Violation(f"election safety: {known} and {node} both lead term {term}")
            return False
        self.leaders[term] = node
        index = max((index for earlier, index in self._committed_in.items() if earlier < term), default=0)
        index = min(index, len(self.applied))
        if index > log.base_index:
            found, decided = log.term(index), self.applied[index - 1][0]
            if found != decided:
                raise Violation(
                    f"leader completeness: entry {index} was committed in term {decided} before term {term}, and "
                    f"{node}, which leads {term}, has {f'one of term {found}' if found else 'none'} there"
                )
        return True

    def wrote(self, node: str, segment: Segment, term_before: int) -> None:
        """A node appends a run to its log, behind an entry of `term_before`."""
        key, run = (segment.first_index, segment.term), (segment.batch.data, term_before)
        if self._runs.get(key) == run:
            return
        self._runs[key] = run
        term, before, written = segment.term, term_before, self._written
        for index, entry in enumerate(segment.batch.entries(), segment.first_index):
            known = written.setdefault((index, term), (entry, before))
            if known != (entry, before):
                raise Violation(
                    f"log matching: {node} writes another entry {index} of term {term} than a node before it, or "
                    f"behind another: {(entry, before)}, not {known}"
                )
            before = term

    def commits(self, index: int, term: int) -> None:
        """A node that is in `term` knows the entries up to `index` to be committed."""
        if index > self.committed:
            self.committed = index
        if index > self._committed_in.get(term, 0):
            self._committed_in[term] = index

    def applies(self, node: str, segment: Segment, first: int, last: int) -> None:
        """A node applies entries `first` to `last` of a run."""
        term, applied = segment.term, self.applied
        for index, entry in enumerate(segment.batch.entries()[first - segment.first_index :], first):
            if index > last:
                return
            if index <= len(applied):
                if applied[index - 1] != (term, entry):
                    raise Violation(
                        f"state machine safety: {node} applies {entry} of term {term} at index {index}, where another "
                        f"node has applied {applied[index - 1][1]} of term {applied[index - 1][0]}"
                    )
            elif index == len(applied) + 1:
                applied.append((term, entry))
                if entry.kind == Kind.ENTRY_CONFIG:
                    self._changes_members(index, Membership.decode(entry.body))
            else:
                raise Violation(f"{node} applies entry {index}, and nobody has applied entry {index - 1} yet")

    def _changes_members(self, index: int, members: Membership) -> None:
        """One change at a time: no two memberships in a row have majorities that do not meet (thesis 4.3)."""
        before, self.membership = self.membership, members
        if before.outgoing:
            legal = members.voters == before.voters and not members.outgoing
        else:
            legal = members.outgoing == before.voters if members.outgoing else members.voters == before.voters
        if not legal:
            raise Violation(f"one change at a time: entry {index} makes {members} of {before}")

    def has_state(self, node: str, applied_index: int, state: int) -> None:
        """A node's state after `applied_index`, as a number."""
        if self.states.setdefault(applied_index, state) != state:
            raise Violation(f"{node} has another state than a node before it at applied index {applied_index}")
