"""BACKUP: a client asks a node for a snapshot, and then for its bytes, to which the connection belongs from there on.

The first question names no snapshot: the node makes one, of everything that was acknowledged before it was asked, and
says what it will send. The second one names it. The layouts are in docs/protocol.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_ASK = struct.Struct("<QQI")
_OFFER = struct.Struct("<QQQQ")
STALE_FLAG = 0x01


@dataclass(frozen=True, slots=True)
class BackupAsk:
    """Please make a snapshot, with index 0; or please send the one with that index and state."""

    index: int
    state_hash: int
    stale: bool = False
    """Of what the node has, without asking anybody whether that is all: where there is no majority any more."""


@dataclass(frozen=True, slots=True)
class BackupOffer:
    """The snapshot that a node has made."""

    index: int
    """The last entry of the log that is in it."""
    term: int
    """That entry's."""
    nbytes: int
    state_hash: int
    """Of what is in it: whoever gets it computes it again."""
    kind: str
    """How it is laid out."""


def encode_backup_ask(ask: BackupAsk) -> bytes:
    """The body of BACKUP."""
    return _ASK.pack(ask.index, ask.state_hash, STALE_FLAG if ask.stale else 0)


def decode_backup_ask(body: bytes) -> BackupAsk:
    """ValueError where the body is no BACKUP."""
    if len(body) != _ASK.size:
        raise ValueError(f"a BACKUP body has {_ASK.size} bytes, not {len(body)}")
    index, state_hash, flags = _ASK.unpack(body)
    if flags & ~STALE_FLAG or (index and flags) or (state_hash and not index):
        raise ValueError("a BACKUP body that asks for nothing that there can be")
    return BackupAsk(index, state_hash, bool(flags & STALE_FLAG))


def encode_backup_offer(offer: BackupOffer) -> bytes:
    """The answer to a BACKUP that names no snapshot."""
    return _OFFER.pack(offer.index, offer.term, offer.nbytes, offer.state_hash) + offer.kind.encode()


def decode_backup_offer(body: bytes) -> BackupOffer:
    """ValueError where the body is no such answer."""
    if len(body) < _OFFER.size:
        raise ValueError(f"an answer to BACKUP has {_OFFER.size} bytes and more, not {len(body)}")
    index, term, nbytes, state_hash = _OFFER.unpack_from(body)
    return BackupOffer(index, term, nbytes, state_hash, body[_OFFER.size :].decode())
