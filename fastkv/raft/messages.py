"""What members say to each other. One class for all kinds: plain fields, no behaviour.

Kinds are plain ints so that a dispatch is one table look-up. What a field means depends on the kind:

| kind | index, log_term | commit | hint_index, hint_term | context |
|---|---|---|---|---|
| PRE_VOTE, VOTE | the candidate's last entry | | | VOTE: `TRANSFERRED` where the leader asked for it |
| PRE_VOTE_REPLY, VOTE_REPLY | `reject` says no | | | |
| APPEND | the entry before `segments` | the leader's | | |
| APPEND_REPLY | last entry that is durable and matches; rejected: the `index` of the APPEND | | where to look next | |
| HEARTBEAT | the receiver's last entry known to match | the leader's | | newest read round |
| HEARTBEAT_REPLY | the follower's last index | | | the round it confirms |
| READ_INDEX | | | | the asker's context |
| READ_INDEX_REPLY | the read index | the leader's | | the asker's context |
| TIMEOUT_NOW | | | | |
| SNAPSHOT | the entry up to which the sender has cut its log | | | |
"""

from __future__ import annotations

from fastkv.log_types import Segment

PRE_VOTE = 1
PRE_VOTE_REPLY = 2
VOTE = 3
VOTE_REPLY = 4
APPEND = 5
APPEND_REPLY = 6
HEARTBEAT = 7
HEARTBEAT_REPLY = 8
READ_INDEX = 9
READ_INDEX_REPLY = 10
TIMEOUT_NOW = 11
SNAPSHOT = 12

TRANSFERRED = 1
"""The `context` of a VOTE that the leader has asked for: stickiness does not hold against it."""

COUNTED = frozenset({PRE_VOTE, PRE_VOTE_REPLY, VOTE, VOTE_REPLY, APPEND_REPLY, HEARTBEAT_REPLY})
"""Kinds that make up a majority, or are somebody's candidacy: they count only where the sender is who it says."""

KIND_NAMES = {
    PRE_VOTE: "PreVote",
    PRE_VOTE_REPLY: "PreVoteReply",
    VOTE: "Vote",
    VOTE_REPLY: "VoteReply",
    APPEND: "Append",
    APPEND_REPLY: "AppendReply",
    HEARTBEAT: "Heartbeat",
    HEARTBEAT_REPLY: "HeartbeatReply",
    READ_INDEX: "ReadIndex",
    READ_INDEX_REPLY: "ReadIndexReply",
    TIMEOUT_NOW: "TimeoutNow",
    SNAPSHOT: "Snapshot",
}

NO_SEGMENTS: list[Segment] = []


class Message:
    """One message, from `frm` to `to`, in the sender's `term`. See the module's table for the rest."""

    __slots__ = (
        "commit",
        "context",
        "frm",
        "hint_index",
        "hint_term",
        "index",
        "kind",
        "log_term",
        "low_water",
        "reject",
        "segments",
        "term",
        "to",
    )

    def __init__(
        self,
        kind: int,
        frm: str,
        to: str,
        term: int,
        index: int = 0,
        log_term: int = 0,
        commit: int = 0,
        reject: bool = False,
        hint_index: int = 0,
        hint_term: int = 0,
        context: int = 0,
        low_water: int = 0,
        segments: list[Segment] = NO_SEGMENTS,  # never changed in place
    ) -> None:
        self.kind = kind
        self.frm = frm
        self.to = to
        self.term = term
        self.index = index
        self.log_term = log_term
        self.commit = commit
        self.reject = reject
        self.hint_index = hint_index
        self.hint_term = hint_term
        self.context = context
        self.low_water = low_water
        self.segments = segments

    def __repr__(self) -> str:
        parts = [f"{KIND_NAMES.get(self.kind, self.kind)} {self.frm}->{self.to} term={self.term}"]
        for name in ("index", "log_term", "commit", "hint_index", "hint_term", "context", "low_water"):
            value = getattr(self, name)
            if value:
                parts.append(f"{name}={value}")
        if self.reject:
            parts.append("reject")
        parts += [f"{s.first_index}..{s.last_index}@{s.term}" for s in self.segments]
        return " ".join(parts)
