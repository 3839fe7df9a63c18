"""From what callers pass to what the wire takes, and from answers that say no to the errors that callers catch."""

from __future__ import annotations

from dataclasses import replace

from fastkv._core.codes import Consistency, FrameFlag, Status
from fastkv.client.connection import Reply
from fastkv.client.results import ConsistencyName, Item, Text
from fastkv.errors import FastKVError, InvalidKey, KeyTooLarge, PreconditionFailed, ProtocolError, error_for
from fastkv.wire.client import STALE_PREFIX_BYTES, Record, decode_record, decode_revision, decode_stale_prefix

MAX_KEY_BYTES = 511

_CONSISTENCY: dict[str, Consistency] = {
    "linearizable": Consistency.LINEARIZABLE,
    "lease": Consistency.LEASE_READ,
    "stale": Consistency.STALE_READ,
}


def text_bytes(text: Text, what: str) -> bytes:
    """Bytes as they are, text as UTF-8; TypeError for anything else, `what` naming the parameter."""
    if isinstance(text, str):
        return text.encode()
    if isinstance(text, bytes):
        return text
    raise TypeError(f"{what} is str or bytes, not {type(text).__name__}")


def key_bytes(key: Text, *, bound: bool = False) -> bytes:
    """A key's bytes. InvalidKey where it is empty, unless it is the bound of a range; KeyTooLarge above 511 bytes."""
    encoded = text_bytes(key, "a key")
    if not encoded and not bound:
        raise InvalidKey("a key has at least one byte")
    if len(encoded) > MAX_KEY_BYTES:
        raise KeyTooLarge(f"a key has at most {MAX_KEY_BYTES} bytes, not {len(encoded)}")
    return encoded


def revision_bound(if_revision: int | None) -> int | None:
    """The revision that a conditional write asks for. ValueError where no revision can be that."""
    if if_revision is not None and not 0 <= if_revision < 1 << 64:
        raise ValueError(f"if_revision is 0 (must not exist) or a revision, not {if_revision}")
    return if_revision


def consistency_code(name: ConsistencyName) -> Consistency:
    """The wire's number for a consistency. ValueError for an unknown name."""
    try:
        return _CONSISTENCY[name]
    except KeyError:
        raise ValueError(f"consistency is one of {', '.join(_CONSISTENCY)}, not {name!r}") from None


def revision_of(reply: Reply) -> int:
    """The revision that a write's answer carries. ProtocolError where it carries something else."""
    try:
        return decode_revision(reply.body)
    except ValueError as error:
        raise ProtocolError(f"the server's answer to a write cannot be read: {error}") from None


def item_of(key: bytes, record: Record, *, with_value: bool = True) -> Item:
    """A record of the wire as callers see it."""
    return Item(
        key=key,
        value=record.value if with_value else None,
        revision=record.mod_revision,
        version=record.version,
        create_revision=record.create_revision,
        lease=record.lease,
    )


def item_answered(key: bytes, reply: Reply) -> Item:
    """What a GET's answer, OK or KEY_NOT_FOUND, says of the key. ProtocolError where it cannot be read."""
    body = reply.body
    try:
        if not reply.flags & FrameFlag.STALE:
            return item_of(key, decode_record(body)) if reply.status == Status.OK else Item(key, None)
        applied_index, age_ms = decode_stale_prefix(body)
        record = body[STALE_PREFIX_BYTES:]
        item = item_of(key, decode_record(record)) if reply.status == Status.OK else Item(key, None)
        return replace(item, applied_index=applied_index, age_ms=age_ms)
    except ValueError as error:
        raise ProtocolError(f"the server's record cannot be read: {error}") from None


def answer_error(reply: Reply) -> FastKVError:
    """The error that an answer other than OK and KEY_NOT_FOUND stands for."""
    if reply.status == Status.PRECONDITION_FAILED:
        revision = revision_of(reply)
        found = f"is at revision {revision}" if revision else "does not exist"
        return PreconditionFailed(f"the key {found}; nothing was changed", revision=revision)
    return error_for(reply.status, reply.body.decode(errors="replace"))
