"""How the membership changes: joint consensus (thesis 4.3), learners that catch up (4.2.1), leaders that leave (4.2.2).

`History` is what a log says of the membership: the newest entry counts, and where entries are truncated the one before
counts again (4.1). The functions below are the leader's: when a change may be proposed, and how it goes on by itself.

A change of voters takes two entries. With the first, old and new voters decide together; once that is committed the
leader appends the second, and the old ones decide nothing any more. Whoever leads at that moment does it, so that a
change goes on when the leader that began it fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkv._core.codes import Kind
from fastkv._core.entry import BatchBuilder
from fastkv.raft import leader, quorum, transfer
from fastkv.raft.membership import Change, ChangeRefused, Membership, Promote, plan
from fastkv.raft.types import LEADER, NotLeader

if TYPE_CHECKING:
    from fastkv.raft.raft import Raft


class History:
    """The memberships that the log has, oldest first. The first one is behind every truncation: it is committed."""

    __slots__ = ("_entries",)

    def __init__(self, index: int, membership: Membership) -> None:
        self._entries = [(index, membership)]

    @property
    def index(self) -> int:
        """The entry that says the newest; that of a snapshot, or 0 for the one that a cluster begins with."""
        return self._entries[-1][0]

    @property
    def oldest(self) -> Membership:
        """The last one that is known to be committed."""
        return self._entries[0][1]

    @property
    def newest(self) -> Membership:
        """What is in force."""
        return self._entries[-1][1]

    def append(self, index: int, membership: Membership) -> None:
        """Entry `index` is appended."""
        self._entries.append((index, membership))

    def truncate(self, from_index: int) -> bool:
        """Entries from `from_index` on are gone. Whether that changed the membership."""
        kept = [entry for entry in self._entries if entry[0] < from_index]
        changed = len(kept) < len(self._entries)
        self._entries = kept
        return changed

    def committed(self, index: int) -> bool:
        """Entries up to `index` will never be truncated: of those only the last matters. Whether any are forgotten."""
        entries = self._entries
        forgotten = False
        while len(entries) > 1 and entries[1][0] <= index:
            del entries[0]
            forgotten = True
        return forgotten

    def may_campaign(self, node_id: str) -> bool:
        """Whether that node has a vote, or had one until an entry that is not known to be committed.

        Who is not part of the newest configuration may be the only one that has it, and then has to lead until it is
        committed (thesis 4.2.2).
        """
        return any(membership.votes(node_id) for _, membership in self._entries)

    def restore(self, index: int, membership: Membership) -> None:
        """A snapshot takes the place of all entries up to `index`."""
        self._entries = [(index, membership), *(entry for entry in self._entries if entry[0] > index)]


def propose(raft: Raft, change: Change, since: int | None = None) -> int:
    """Append the entry that begins a change; its index. NotLeader, or ChangeRefused with the reason.

    Members that were not heard from since tick `since`, by default an election timeout ago, count as gone.
    """
    if raft.role != LEADER:
        raise NotLeader(raft.leader)
    if not raft.log.matches(raft.commit_index, raft.term):
        # Else two leaders' changes could meet that know nothing of each other (Ongaro's note on thesis 4.1, 2015).
        raise ChangeRefused("the leader is new, and nothing of its term is committed yet; try again in a moment")
    if raft.history.index > raft.commit_index:
        raise ChangeRefused("another change of members is under way")
    if raft.transferee:
        raise ChangeRefused(f"leadership is being transferred to {raft.transferee}")
    planned = plan(raft.membership, change)
    if isinstance(change, Promote) and not leader.caught_up(raft, change.node_id):
        raise ChangeRefused(f"{change.node_id} lags: it has not caught up with the log yet")
    _check_quorum(raft, planned, raft.ticks - raft.config.election_ticks if since is None else since)
    return _append(raft, planned)


def _check_quorum(raft: Raft, planned: Membership, since: int) -> None:
    """Members that do not answer must not be what the next decision waits for."""
    for voters in (planned.voters, planned.outgoing):
        there = [voter for voter in voters if leader.was_heard(raft, voter, since)]
        if voters and len(there) < quorum.size(voters):
            raise ChangeRefused(
                f"the cluster would lose its quorum: of the voters {', '.join(voters)} only "
                f"{', '.join(there) or 'nobody'} can be reached"
            )


def _append(raft: Raft, membership: Membership) -> int:
    entry = BatchBuilder()
    entry.append(Kind.ENTRY_CONFIG, membership.encode())
    return leader.append(raft, entry.take())


def go_on(raft: Raft) -> None:
    """Leader: the commit index moved. Finish a change whose first half is committed; leave where one was removed."""
    if raft.history.index > raft.commit_index:
        return
    membership = raft.membership
    if membership.outgoing:
        if raft.log.matches(raft.commit_index, raft.term):
            _append(raft, membership.final())
    elif raft.node_id not in membership.voters:
        transfer.leave(raft)        # "steps down once C_new is committed" (4.2.2)


def promote_learners(raft: Raft) -> None:
    """Leader, now and then: learners that are to vote do so once they have caught up."""
    for member in raft.membership.members:
        if member.promote and leader.caught_up(raft, member.node_id):
            try:
                propose(raft, Promote(member.node_id))
            except ChangeRefused:
                return              # it is tried again
