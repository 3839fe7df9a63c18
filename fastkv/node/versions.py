"""Which version of the protocol a cluster speaks, and when it goes on to the next.

Each node says in its status what it speaks at most. The leader takes the lowest of all members, and where that is above
what the cluster speaks, proposes it as an entry that the membership carries from then on: so it is in every log,
store and snapshot, and never falls. What came with a version (a kind of entry, a field of one) is used only once that
entry is committed: then no member is left that would not know it.

A member that is not heard from may be of any release, so nothing is raised while one is away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkv.errors import NewerVersion
from fastkv.node.gossip import Gossip
from fastkv.node.ports import NodeSettings
from fastkv.raft import LEADER, ChangeRefused, Membership, Raft, RaiseVersion
from fastkv.version import __version__

if TYPE_CHECKING:
    from fastkv.node.members import Members


def check_speaks(membership: Membership, newest: int, where: str) -> None:
    """NewerVersion where a membership is of a cluster that speaks a newer protocol than this node may."""
    if membership.version > newest:
        raise NewerVersion(
            f"{where} is of a cluster that speaks version {membership.version} of the protocol, and this node (fastkv "
            f"{__version__}) speaks versions up to {newest}: start it with a release that speaks that one, and without "
            "a lower cluster.protocol_version"
        )


class Versions:
    """Of one node."""

    def __init__(self, settings: NodeSettings, raft: Raft, gossip: Gossip, members: Members) -> None:
        self._settings = settings
        self._raft = raft
        self._gossip = gossip
        self._members = members

    @property
    def newest(self) -> int:
        """What this node speaks at most."""
        return self._settings.protocol_version

    @property
    def cluster(self) -> int:
        """What the cluster speaks. An entry that came with a later version must not be proposed, nor forwarded."""
        return self._members.applied.version

    @property
    def in_force(self) -> int:
        """As `cluster`, or the next one where that is in this log and may not be committed yet.

        0 for a node that has not joined yet: it does not know.
        """
        return self._raft.membership.version if self._raft.membership else 0

    def raise_where_due(self, now: int) -> None:
        """As the leader: raise the cluster's version to what all members speak. Called each tick."""
        raft, newest = self._raft, self.newest
        if raft.role != LEADER or raft.membership.version >= newest or raft.history.index > raft.commit_index:
            return
        for peer in raft.membership.peers_of(raft.node_id):
            status = self._gossip.status_of(peer, now)
            if status is None:
                return
            newest = min(newest, status.protocol)
        if newest > raft.membership.version:
            try:
                raft.change(RaiseVersion(newest))
            except ChangeRefused:
                return              # it is tried again on the next tick
