"""Who belongs to the cluster, as an entry of the log says it (thesis chapter 4).

Voters decide; learners are sent the log and decide nothing, so that a new member does not cost availability while it
catches up (4.2.1). While the voters change there are two sets of them, `voters` and `outgoing`, and every decision
needs a majority of each (joint consensus, 4.3): at no moment are there two disjoint majorities, whoever has heard.

A `Membership` is a value. `plan` makes the next one of it, or says why not; `Raft` says when that may be proposed. An
entry takes effect as soon as it is in a member's log, committed or not (4.1), and is undone where it is truncated.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

REMEMBERED_DISKS = 64
"""Disks of removed members that are remembered, so that one that comes back late is told why nobody talks to it."""
MEMBERS_LIMIT = 64


class ChangeRefused(Exception):
    """The change of members or leadership is not possible now; the text says why. Nothing has changed."""


@dataclass(frozen=True, slots=True)
class Member:
    """One node. Addresses mean nothing to consensus; they travel with it so that every node learns them."""

    node_id: str
    raft: str = ""
    """host:port of the raw-TCP port."""
    http: str = ""
    disk: int = 0
    """Drawn when the node's data directory was made; 0 until it is known. Another disk is another node, whatever its
    id: it does not have what this member has acknowledged."""
    promote: bool = False
    """A learner that becomes a voter once it has caught up."""
    replaces: str = ""
    """The voter that leaves in the same step as this learner becomes one."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Voters and learners. All tuples are sorted, so that equal memberships have equal bytes."""

    members: tuple[Member, ...] = ()
    """Everybody who is sent the log."""
    voters: tuple[str, ...] = ()
    outgoing: tuple[str, ...] = ()
    """The voters before the change under way; empty while there is none."""
    removed: tuple[int, ...] = ()
    """Disks of former members, the newest last."""
    version: int = 1
    """Of the protocol: every member speaks it, and whatever came with it may be in the log. It never falls."""

    @classmethod
    def of(cls, members: Iterable[Member]) -> Membership:
        """A first membership: everybody votes."""
        ordered = tuple(sorted(members, key=lambda member: member.node_id))
        return cls(ordered, tuple(member.node_id for member in ordered))

    def __bool__(self) -> bool:
        """Whether there are any members: a node that has not joined yet knows none."""
        return bool(self.members)

    def get(self, node_id: str) -> Member | None:
        """The member of that id."""
        for member in self.members:
            if member.node_id == node_id:
                return member
        return None

    @property
    def learners(self) -> tuple[str, ...]:
        """Members without a vote."""
        return tuple(member.node_id for member in self.members if not self.votes(member.node_id))

    def votes(self, node_id: str) -> bool:
        """Whether that node has a vote, in either set."""
        return node_id in self.voters or node_id in self.outgoing

    def peers_of(self, node_id: str) -> tuple[str, ...]:
        """Everybody else."""
        return tuple(member.node_id for member in self.members if member.node_id != node_id)

    def encode(self) -> bytes:
        """The body of an ENTRY_CONFIG: JSON, because people read logs too, and these entries are rare."""
        members = [
            {
                "id": member.node_id,
                "raft": member.raft,
                "http": member.http,
                "disk": member.disk,
                "promote": member.promote,
                "replaces": member.replaces,
            }
            for member in self.members
        ]
        document: dict[str, object] = {
            "members": members,
            "voters": self.voters,
            "outgoing": self.outgoing,
            "removed": self.removed,
        }
        if self.version > 1:        # who speaks version 1 does not know the field, and would lose it
            document["version"] = self.version
        return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()

    @classmethod
    def decode(cls, body: bytes) -> Membership:
        """The membership that `encode` wrote; that of nobody for no bytes. ValueError for anything else."""
        if not body:
            return cls()
        try:
            said = json.loads(body)
            members = tuple(
                Member(
                    str(m["id"]), str(m["raft"]), str(m["http"]), int(m["disk"]), bool(m["promote"]), str(m["replaces"])
                )
                for m in said["members"]
            )
            return cls(
                members,
                tuple(str(voter) for voter in said["voters"]),
                tuple(str(voter) for voter in said["outgoing"]),
                tuple(int(disk) for disk in said["removed"]),
                int(said.get("version", 1)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a membership: {error!r}") from error

    # -- how one follows from another --------------------------------------------------------------------------------

    def with_member(self, member: Member) -> Membership:
        """That member added, or changed."""
        others = [m for m in self.members if m.node_id != member.node_id]
        return replace(self, members=tuple(sorted([*others, member], key=lambda m: m.node_id)))

    def joint(self, voters: Iterable[str]) -> Membership:
        """On the way to these voters: old and new decide together (C_old,new of thesis 4.3)."""
        return replace(self, voters=tuple(sorted(voters)), outgoing=self.voters)

    def final(self) -> Membership:
        """The change is over (C_new): who only voted before, and is no learner, belongs to the cluster no more."""
        gone = [m for m in self.members if m.node_id in self.outgoing and m.node_id not in self.voters]
        return replace(self, outgoing=()).without(gone)

    def without(self, gone: Iterable[Member]) -> Membership:
        """Those members removed."""
        gone = list(gone)
        ids = {member.node_id for member in gone}
        disks = (*self.removed, *(member.disk for member in gone if member.disk))
        return replace(
            self, members=tuple(m for m in self.members if m.node_id not in ids), removed=disks[-REMEMBERED_DISKS:]
        )


# -- what may be asked for -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AddMember:
    """A new learner; `member.promote` makes it a voter as soon as it has caught up."""

    member: Member


@dataclass(frozen=True, slots=True)
class Promote:
    """Make a learner a voter; whom it `replaces` leaves in the same step."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Take a member out."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Readdress:
    """A member has moved; an empty address stays as it is."""

    node_id: str
    raft: str = ""
    http: str = ""


@dataclass(frozen=True, slots=True)
class NoteDisk:
    """A member has been met for the first time: from now on it is the node with that disk."""

    node_id: str
    disk: int


@dataclass(frozen=True, slots=True)
class RaiseVersion:
    """Every member speaks that version of the protocol: from now on it may be used."""

    version: int


Change = AddMember | Promote | Remove | Readdress | NoteDisk | RaiseVersion


def plan(now: Membership, change: Change) -> Membership:
    """The membership to propose: joint where voters change. ChangeRefused where it makes no sense."""
    if now.outgoing:
        raise ChangeRefused("another change of members is under way")
    if isinstance(change, AddMember):
        return _added(now, change.member)
    if isinstance(change, RaiseVersion):
        if change.version <= now.version:
            raise ChangeRefused(f"the cluster speaks version {now.version} of the protocol already")
        return replace(now, version=change.version)
    member = now.get(change.node_id)
    if member is None:
        raise ChangeRefused(f"there is no member {change.node_id!r}")
    if isinstance(change, Remove):
        return _removed(now, member)
    if isinstance(change, Promote):
        return _promoted(now, member)
    if isinstance(change, NoteDisk):
        if member.disk:
            raise ChangeRefused(f"{member.node_id} is already known by its disk {member.disk:#x}")
        return now.with_member(replace(member, disk=change.disk))
    _check_addresses(now, member.node_id, change.raft, change.http)
    return now.with_member(replace(member, raft=change.raft or member.raft, http=change.http or member.http))


def _added(now: Membership, member: Member) -> Membership:
    if not member.node_id:
        raise ChangeRefused("a member has an id")
    if now.get(member.node_id) is not None:
        raise ChangeRefused(f"there is a member {member.node_id!r} already; remove it first, or take another id")
    if len(now.members) >= MEMBERS_LIMIT:
        raise ChangeRefused(f"a cluster has at most {MEMBERS_LIMIT} members")
    if member.replaces and member.replaces not in now.voters:
        raise ChangeRefused(f"there is no voter {member.replaces!r} to replace")
    _check_addresses(now, member.node_id, member.raft, member.http)
    return now.with_member(member)


def _check_addresses(now: Membership, node_id: str, raft: str, http: str) -> None:
    for other in now.members:
        if other.node_id != node_id and ((raft and raft == other.raft) or (http and http == other.http)):
            raise ChangeRefused(f"{other.node_id} has the address {raft if raft == other.raft else http} already")


def _removed(now: Membership, member: Member) -> Membership:
    if member.node_id not in now.voters:
        return now.without([member])
    if now.voters == (member.node_id,):
        raise ChangeRefused(f"{member.node_id} is the only voter")
    return now.joint(voter for voter in now.voters if voter != member.node_id)


def _promoted(now: Membership, member: Member) -> Membership:
    if member.node_id in now.voters:
        raise ChangeRefused(f"{member.node_id} is a voter already")
    voters = {*now.voters, member.node_id} - {member.replaces}
    promoted = replace(member, promote=False, replaces="")
    return now.with_member(promoted).joint(voters)
