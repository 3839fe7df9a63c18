"""Who belongs to the cluster, seen from one node: whom it links with, who is refused, and when it has to leave."""

from __future__ import annotations

from collections.abc import Callable, Collection

from fastkv._core.codes import Status
from fastkv.node.acquaintances import Acquaintances
from fastkv.node.ports import Addresses, NodeSettings
from fastkv.node.versions import check_speaks
from fastkv.raft import LEADER, ChangeRefused, Membership, Raft
from fastkv.storage.sync import lacks_space


class Members:
    """Two memberships count: the one in force (Raft's, the last of the log) says whom to reach and who may link, the
    committed one (`applied`), which will not be undone, who is gone for good.

    `on_members` is told who is to be reached, and where; `on_removed` that this node is a member no more;
    `on_disowned` that it is none of the founders, whatever its configuration says. `vouches(node_id, disk, but_for)`
    says whether another member, but for those, knows that id by that disk, and has applied more than we know of.
    """

    def __init__(
        self,
        settings: NodeSettings,
        raft: Raft,
        applied: Membership,
        on_members: Callable[[Addresses], None],
        on_removed: Callable[[str], None],
        on_disowned: Callable[[], None],
        vouches: Callable[[str, int, Collection[str]], bool],
    ) -> None:
        self.applied = applied
        self.impostors: set[str] = set()
        """Ids under which another machine was met than the member: nothing it says counts."""
        self.doubtful: set[str] = set()
        """Ids under which perhaps another machine was met than the member. Its votes and acknowledgements do not count,
        nor does its candidacy; but where it leads it is followed: others, who know more, have elected it."""
        self._settings = settings
        self._raft = raft
        self._acquaintances = Acquaintances(settings.node_id, settings.disk)
        self._refusals: dict[str, str] = {}
        self._vouches = vouches
        self._vouched: set[tuple[str, int]] = set()
        self._on_members = on_members
        self._on_removed = on_removed
        self._on_disowned = on_disowned
        self._unnoted = False

    @property
    def disks(self) -> dict[str, int]:
        """By which disks the members are known, where they are."""
        return {member.node_id: member.disk for member in self.applied.members if member.disk}

    @property
    def refusal(self) -> str:
        """Why others do not let this node in; empty while they do."""
        return next(iter(self._refusals.values()), "")

    def hear_hello(self, node_id: str, disk: int, address: str) -> tuple[int, str]:
        """A node wants to link to this one: OK, or why not, as a `Status` and a text for whoever runs it."""
        known = self._acquaintances.addresses.get(node_id)
        status, text = self._acquaintances.hello(
            node_id, disk, address, self._raft.membership, self.applied, vouched=self._is_vouched(node_id, disk)
        )
        if status == Status.OK and (known != address or node_id in self.impostors or node_id in self.doubtful):
            self.changed()      # it may be one that we have not heard of yet, or that has moved
        return status, text

    def refused_by(self, node_id: str, status: int, text: str) -> None:
        """A node does not let this one link to it.

        One that knows our id with another disk, or our disk as removed, is right. One that knows us at another address
        may be wrong: we are a member whose vote may be needed. One of another cluster, or another restore, is no peer.
        """
        if status == Status.REMOVED:
            self._on_removed(f"{node_id} says: {text}")
        lost = status in (Status.REMOVED, Status.WRONG_DISK)
        if lost or status in (Status.WRONG_ADDRESS, Status.WRONG_CLUSTER, Status.UNSUPPORTED_VERSION):
            self._refusals[node_id] = f"{node_id} says: {text}"
            if lost and self._raft.membership.members and not self._raft.log.last_index:
                # Whatever our disk held is lost. A few nodes like that could found the cluster again, without its data.
                self._raft.disown()
                self._unnoted = True
        if self._unnoted:
            self._note_disowned()

    def _note_disowned(self) -> None:
        """Remember it over a restart; on a full disk, the next refusal tries again."""
        try:
            self._on_disowned()
        except OSError as error:
            if not lacks_space(error):
                raise
        else:
            self._unnoted = False

    def linked(self, node_id: str, disk: int) -> bool:
        """The link to a peer is up. False where it is not the member."""
        another = self._acquaintances.is_another(node_id, disk, self._raft.membership)
        if another and not self._is_vouched(node_id, disk):
            return False
        self._refusals.pop(node_id, None)
        return True

    def _is_vouched(self, node_id: str, disk: int) -> bool:
        """Whether somebody who has applied more than we know of takes that disk for the member of that id.

        Then we have missed that the former one was removed. Where the new one leads, nobody else could tell us.
        """
        if self._vouches(node_id, disk, self.doubtful):
            self._vouched.add((node_id, disk))
        return (node_id, disk) in self._vouched

    @property
    def doubts(self) -> list[str]:
        """What a person has to do about those who are doubtful."""
        known, met = self._raft.membership, self._acquaintances.addresses
        return [
            f"the cluster knows {member.node_id} at {member.raft}, and it is at {met[member.node_id]}. "
            f"If it has moved, update the member; if two nodes use this id, stop one. Until then it does not count"
            for member in known.members
            if member.node_id in self.doubtful
        ]

    def changed(self) -> None:
        """Another membership is in force, or somebody was met: who is to be reached, and where."""
        met = self._acquaintances.addresses
        addresses: Addresses = {node_id: (address,) for node_id, address in met.items()}
        for member in self._raft.membership.members:
            if member.raft and met.get(member.node_id) != member.raft:
                addresses[member.node_id] = (*addresses.get(member.node_id, ()), member.raft)
        others = self._acquaintances.impostors(self._raft.membership)
        vouched = {node_id for node_id in others if self._is_vouched(node_id, self._acquaintances.disk_of(node_id))}
        self.impostors = others - vouched
        self.doubtful = self._acquaintances.doubtful(self._raft.membership) | vouched
        for node_id in self.impostors:      # where it is, the member is not
            addresses[node_id] = addresses[node_id][1:]
        addresses.pop(self._settings.node_id, None)
        self._on_members(addresses)

    def committed(self, membership: Membership) -> None:
        """A membership is committed: it will not be undone."""
        check_speaks(membership, self._settings.protocol_version, "the log")
        before, self.applied = self.applied, membership
        for member in before.members:
            if membership.get(member.node_id) is None:
                self._acquaintances.forget(member)
        self.changed()
        # Not the id but the disk: on its way through the log a new machine may find its id's former one removed.
        if self._settings.disk in membership.removed:
            self._on_removed(f"{self._settings.node_id} was removed from the cluster")

    def note_disks(self) -> None:
        """As the leader: put down which disk a member has that has been met for the first time."""
        raft = self._raft
        if raft.role == LEADER and raft.history.index <= raft.commit_index:
            note = self._acquaintances.to_note(raft.membership)
            if note is not None:
                try:
                    raft.change(note)
                except ChangeRefused:
                    return              # it is tried again on the next tick
