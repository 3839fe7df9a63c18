"""Sessions and idempotency keys as one would write them down to explain them.

The twin of `fastkv._core.sessions` and `fastkv._core.idempotency`: dictionaries that are searched from end to end.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from fastkv._core.codes import SESSION_WINDOW
from tests.reference.digest import MODULUS, digest_bytes, digest_numbers

KEYS_KEPT = 65_536
TOP_BIT = 2**63
OF_SESSION, OF_SESSION_RESULT, OF_IDEMPOTENCY_KEY, OF_COMMAND = 2, 3, 4, 5


class Result(NamedTuple):
    """What a command is answered."""

    status: int
    flags: int
    revision: int

    @property
    def answer(self) -> int:
        return self.status | self.flags << 16


@dataclass
class Session:
    """One client's, opened by entry `session_id`."""

    session_id: int
    last_used: int
    results: dict[int, Result] = field(default_factory=dict)

    @property
    def highest(self) -> int:
        return max(self.results, default=0)

    def encode(self) -> bytes:
        highest = self.highest
        return struct.pack("<QQ", self.last_used, highest) + b"".join(
            struct.pack("<HHIQ", highest - sequence, result.status, result.flags, result.revision)
            for sequence, result in sorted(self.results.items())
        )

    def digest(self) -> int:
        own = digest_numbers(self.session_id, self.last_used, self.highest, 0, OF_SESSION)
        return own + sum(
            digest_numbers(self.session_id, sequence, result.revision, result.answer, OF_SESSION_RESULT)
            for sequence, result in self.results.items()
        )


class Keyed(NamedTuple):
    """An idempotency key that entry `at` brought."""

    high: int
    low: int
    at: int
    fingerprint: int
    result: Result

    def encode(self) -> bytes:
        status, flags, revision = self.result
        return struct.pack("<QQQHHIQ", self.high, self.low, self.fingerprint, status, flags, 0, revision)

    def digest(self) -> int:
        said = digest_numbers(self.fingerprint, self.result.revision, self.result.answer, 0, OF_COMMAND)
        return digest_numbers(self.high, self.low, self.at, said, OF_IDEMPOTENCY_KEY)


class Sessions:
    """All that are open, and the newest idempotency keys."""

    def __init__(self) -> None:
        self.open_ones: dict[int, Session] = {}
        self.keys: list[Keyed] = []

    def open(self, index: int, limit: int) -> None:
        while len(self.open_ones) >= limit:
            oldest = min(self.open_ones.values(), key=lambda session: session.last_used)
            del self.open_ones[oldest.session_id]
        self.open_ones[index] = Session(index, index)

    def recall(self, session_id: int, sequence: int, index: int) -> Result | str:
        """The result of a command that was seen before, "new", or "expired"."""
        session = self.open_ones.get(session_id)
        if session is None:
            return "expired"
        session.last_used = index
        if sequence <= session.highest - SESSION_WINDOW:
            return "expired"
        return session.results.get(sequence, "new")

    def remember(self, session_id: int, sequence: int, result: Result) -> None:
        results = self.open_ones[session_id].results
        results[sequence] = result
        oldest = max(results) - SESSION_WINDOW + 1
        for forgotten in [sequence for sequence in results if sequence < oldest]:
            del results[forgotten]

    def recall_key(self, high: int, low: int, fingerprint: int) -> Result | str:
        """Likewise: "new", or "reused" for another command."""
        for key in self.keys:
            if (key.high, key.low) == (high, low):
                return key.result if key.fingerprint == fingerprint else "reused"
        return "new"

    def remember_key(self, key: Keyed) -> None:
        self.keys = [*self.keys[-KEYS_KEPT + 1 :], key]

    def records(self) -> dict[bytes, bytes]:
        """What a store has to keep of all this."""
        sessions = {key.to_bytes(8, "big"): session.encode() for key, session in self.open_ones.items()}
        return sessions | {(TOP_BIT | key.at).to_bytes(8, "big"): key.encode() for key in self.keys}

    def digest(self) -> int:
        sessions = sum(session.digest() for session in self.open_ones.values())
        return (sessions + sum(key.digest() for key in self.keys)) % MODULUS


def fingerprint_of(kind: int, key: bytes, value: bytes, compare: int | None, lease: int | None) -> int:
    """Of all that a command says, but for its idempotency key."""
    flags = (compare is not None) | (lease is not None) << 1 | 1 << 2
    seed = digest_numbers(kind | flags << 8 | len(key) << 16, compare or 0, lease or 0, 0, OF_COMMAND)
    return digest_bytes(value, digest_bytes(key, seed))
