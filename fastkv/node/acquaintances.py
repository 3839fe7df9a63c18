"""Who may talk to this node, and as whom: ids, and the disks behind them. Both sides of a link look.

A member is its disk. One that has lost it does not have what it has acknowledged, and two that use one id would count
as one: so each data directory has a number of its own, which a node says when it links, and which the membership notes
when the member is first met (`raft.NoteDisk`). From then on nobody else is taken for it.
"""

from __future__ import annotations

from fastkv._core.codes import Status
from fastkv.raft import Member, Membership, NoteDisk


class Acquaintances:
    """The nodes that have linked to this one."""

    def __init__(self, node_id: str, disk: int) -> None:
        self._node_id = node_id
        self._disks = {node_id: disk}
        self._in_place: dict[str, int] = {}
        """The disks of those who were met where the membership has them."""
        self.addresses: dict[str, str] = {}
        """Where those who linked say that they are to be reached."""

    def forget(self, member: Member) -> None:
        """It is a member no more; whoever comes under its id may be another machine.

        So may the one who came last: this node may hear of a removal long after another machine has got the name, and
        linked. One who is linked does not say HELLO again.
        """
        node_id = member.node_id
        if node_id == self._node_id:
            return
        self._in_place.pop(node_id, None)
        if member.disk and self._disks.get(node_id) == member.disk:
            del self._disks[node_id], self.addresses[node_id]

    def hello(
        self, node_id: str, disk: int, address: str, current: Membership, applied: Membership, *, vouched: bool = False
    ) -> tuple[int, str]:
        """Whether a node may link: OK, or why not (a `Status` and a text for whoever runs it).

        An id that is not known is let in: this node may have missed that it was added, and hears of it from the log. So
        is one for whom others have `vouched`.
        """
        if disk and disk in applied.removed:
            return Status.REMOVED, f"{node_id} was removed from the cluster; its data directory cannot come back"
        if node_id == self._node_id:
            return Status.WRONG_DISK, f"{node_id} is the id of this node; no two nodes have the same"
        if self.is_another(node_id, disk, current) and not vouched:
            return Status.WRONG_DISK, (
                f"the cluster knows {node_id} with another data directory. If it was lost, remove the member "
                f"({node_id}) and add it anew; if two nodes use this id, stop one of them"
            )
        member = current.get(node_id)
        if member is not None and not member.disk:
            if member.raft in ("", address):
                self._in_place[node_id] = disk
            elif self._in_place.get(node_id, disk) != disk and not vouched:
                return Status.WRONG_ADDRESS, (
                    f"the cluster knows {node_id} at {member.raft}, where another node is, and this one is at "
                    f"{address}: two nodes use this id; stop one of them"
                )
        self._disks[node_id] = disk
        self.addresses[node_id] = address
        return Status.OK, ""

    def disk_of(self, node_id: str) -> int:
        """That of the node that was met last under an id."""
        return self._disks[node_id]

    def is_another(self, node_id: str, disk: int, membership: Membership) -> bool:
        """Whether the node that answers under an id is not the member with that id."""
        member = membership.get(node_id)
        return member is not None and member.disk not in (0, disk)

    def impostors(self, membership: Membership) -> set[str]:
        """The ids under which other nodes were met than the members."""
        return {node_id for node_id in self.addresses if self._is_impostor(node_id, membership)}

    def _is_impostor(self, node_id: str, membership: Membership) -> bool:
        return node_id != self._node_id and self.is_another(node_id, self._disks[node_id], membership)

    def doubtful(self, membership: Membership) -> set[str]:
        """The ids of members whose disks nobody knows, and that are not where the membership has them.

        They may have moved, and this node may not have heard of it yet; or be somebody else.
        """
        return {node_id for node_id in self.addresses if self._is_doubtful(node_id, membership)}

    def _is_doubtful(self, node_id: str, membership: Membership) -> bool:
        member = membership.get(node_id)
        if member is None or member.disk or member.raft in ("", self.addresses[node_id]):
            return False
        return self._in_place.get(node_id) != self._disks[node_id]

    def to_note(self, membership: Membership) -> NoteDisk | None:
        """A member that has been met, where it is said to be, and whose disk the membership does not know yet."""
        for member in membership.members:
            disk = self._disks.get(member.node_id, 0)
            known = disk and disk not in membership.removed
            if not member.disk and known and member.node_id not in self.doubtful(membership):
                return NoteDisk(member.node_id, disk)
        return None
