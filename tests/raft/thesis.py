"""What the tests by section of Ongaro's thesis share: leaders, configurations, and all that a member remembers."""

from __future__ import annotations

import random
from collections import deque

from fastkv._core.codes import Kind
from fastkv._core.entry import BatchBuilder, EntryBatch
from fastkv.log_types import Segment
from fastkv.raft import LEADER, Member, Membership, Message, Raft
from tests.raft.alone import Alone


def leader(others: str = "bc", **settings: int | bool) -> Alone:
    """Member a, that leads term 1, with entry 1 committed."""
    member = Alone(others=others, pre_vote=False, **settings)
    member.lead_safely()
    return member


def voters(names: str, outgoing: str = "", learners: str = "") -> Membership:
    """These vote, each named by a letter."""
    everybody = sorted({*names, *outgoing, *learners})
    return Membership(tuple(Member(name) for name in everybody), tuple(names), tuple(outgoing))


def config_batch(membership: Membership) -> EntryBatch:
    """The batch whose one entry says who the members are."""
    builder = BatchBuilder()
    builder.append(Kind.ENTRY_CONFIG, membership.encode())
    return builder.take()


def says(index: int, term: int, membership: Membership) -> Segment:
    """That entry in a log."""
    return Segment(index, term, config_batch(membership))


def all_acknowledge(member: Alone) -> list[Message]:
    """Whoever the leader knows has everything, until there is nothing new; what the leader says meanwhile."""
    said: list[Message] = []
    raft = member.raft
    while raft.role == LEADER and any(p.match < raft.log.last_index for p in raft.progress.values()):
        for peer in raft.peers:
            said += member.acknowledge(peer, raft.log.last_index)
    return said


def state_of(raft: Raft) -> object:
    """Equal before and after whatever leaves no trace: not in the log, the outbox, the timers, nor in the dice."""
    return {name: _value(value) for name, value in vars(raft).items()}


def _value(thing: object) -> object:
    if thing is None or isinstance(thing, int | str | bytes):
        return thing
    if isinstance(thing, random.Random):
        return thing.getstate()
    if isinstance(thing, EntryBatch):
        return thing.data
    if isinstance(thing, dict):
        return {key: _value(value) for key, value in thing.items()}
    if isinstance(thing, tuple | list | deque):
        return [_value(value) for value in thing]
    if hasattr(thing, "__slots__"):
        # What refers back to the member itself is skipped.
        return {name: _value(getattr(thing, name)) for name in thing.__slots__ if name != "_raft"}
    return {name: _value(value) for name, value in vars(thing).items()}
