"""What clients and servers say to each other: the bodies of their frames, for clients, servers and tests.

A server reads GET, PUT and DELETE requests in compiled code; they never pass through here, and PUT and DELETE are
written by `fastkv._core.entry.encode_command`. The layouts are specified in docs/protocol.md.

Reserved bits of a request have to be 0, so that a later version can give them a meaning that an earlier one refuses
instead of missing it. Those of an answer are ignored.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from fastkv._core.codes import Consistency, ScanFlag
from fastkv.version import OLDEST_PROTOCOL_VERSION as OLDEST_PROTOCOL_VERSION
from fastkv.version import PROTOCOL_VERSION as PROTOCOL_VERSION

MAGIC = b"fkv1"
CLIENT_ROLE = 1
PEER_ROLE = 2
CLIENT_VERSION = 1
"""What a client says: the lowest version that has all it needs, so that servers of every release take it."""

_HELLO = struct.Struct("<4sHBB")
_HELLO_REPLY = struct.Struct("<HHII")
_LENGTH = struct.Struct("<H")
_DISK = struct.Struct("<Q")
RESTORED_SINCE = 2
"""The version of the protocol in which a node's HELLO says which restore it was made by."""
_GET = struct.Struct("<BBH")
_SCAN = struct.Struct("<BBHHHII")
_SCAN_REPLY = struct.Struct("<QIHH")
_SCAN_ITEM = struct.Struct("<HHI")
_RECORD = struct.Struct("<QQQQ")
_STALE = struct.Struct("<QII")
_REVISION = struct.Struct("<Q")
_LOG = struct.Struct("<QI")

STALE_PREFIX_BYTES = _STALE.size
LOG_ENTRIES = 20
"""Of the log that are shown to somebody who does not say how many."""
MAX_LOG_ENTRIES = 1000
"""The most that LOG may ask for."""
"""In front of a stale read's answer: what `decode_stale_prefix` reads."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame of a connection. `cluster` may be empty for a client: any will do.

    Whoever dials speaks the versions from `oldest` to `version`. A node also says the number of its data directory, its
    raw-TCP `host:port` and, from version 2 on, which restore of a backup it was made by; empty where by none.
    """

    version: int
    role: int
    id: str
    cluster: str
    credentials: bytes
    disk: int = 0
    address: str = ""
    oldest: int = 1
    restored: str = ""


@dataclass(frozen=True, slots=True)
class HelloReply:
    """What a server says of itself. `leader_id` and `leader_address` are empty while it knows no leader.

    `version` is that of this connection. `newest` is what the server speaks at most; one that speaks version 1 only
    says 0. `disk` is the number of its data directory, which it says to nodes only: else 0.
    """

    version: int
    max_frame_bytes: int
    max_value_bytes: int
    node_id: str
    cluster: str
    leader_id: str
    leader_address: str
    disk: int = 0
    newest: int = 0


@dataclass(frozen=True, slots=True)
class ScanRequest:
    """A page of a range: keys from `start` (included) to `end` (excluded; empty: no bound).

    `limit` and `limit_bytes` bound the page; 0 is the server's default. `cursor` continues an earlier page's snapshot.
    """

    start: bytes = b""
    end: bytes = b""
    limit: int = 0
    limit_bytes: int = 0
    reverse: bool = False
    keys_only: bool = False
    cursor: bytes = b""
    consistency: int = Consistency.LINEARIZABLE


@dataclass(frozen=True, slots=True)
class Record:
    """A key's value and its revisions (design: data model)."""

    mod_revision: int
    create_revision: int
    version: int
    lease: int
    value: bytes


@dataclass(frozen=True, slots=True)
class ScanPage:
    """An answer to SCAN; an empty cursor means that there is no more."""

    revision: int
    items: list[tuple[bytes, Record]]
    cursor: bytes


class _Reader:
    """Reads fields one after the other; ValueError where the bytes end too soon."""

    def __init__(self, body: bytes, start: int = 0) -> None:
        self._body = body
        self._at = start

    def fields(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack_from(self._body, self._pass(layout.size))

    def span(self, nbytes: int) -> bytes:
        start = self._pass(nbytes)
        return self._body[start : self._at]

    def _pass(self, nbytes: int) -> int:
        start, end = self._at, self._at + nbytes
        if end > len(self._body):
            raise ValueError(f"the body of {len(self._body)} bytes ends too soon")
        self._at = end
        return start

    def string(self) -> bytes:
        return self.span(self.fields(_LENGTH)[0])

    def text(self) -> str:
        return self.string().decode()

    def finish(self) -> None:
        if self._at != len(self._body):
            raise ValueError(f"{len(self._body) - self._at} bytes too many")


def _length(value: bytes) -> int:
    if len(value) > 0xFFFF:
        raise ValueError(f"a byte string of the wire has at most 65535 bytes, not {len(value)}")
    return len(value)


def _string(value: bytes) -> bytes:
    return _LENGTH.pack(_length(value)) + value


def encode_hello_body(
    role: int,
    own_id: str,
    cluster: str,
    credentials: bytes = b"",
    *,
    disk: int = 0,
    address: str = "",
    restored: str = "",
    version: int = CLIENT_VERSION,
) -> bytes:
    """The body of HELLO, of one who speaks the versions up to `version`.

    ValueError for a string of more than 65535 bytes, here and in the other encoders.
    """
    header = _HELLO.pack(MAGIC, version, role, version - min(OLDEST_PROTOCOL_VERSION, version))
    body = header + _string(own_id.encode()) + _string(cluster.encode()) + _string(credentials)
    if role == PEER_ROLE:
        body += _DISK.pack(disk) + _string(address.encode())
        if version >= RESTORED_SINCE:
            body += _string(restored.encode())
    return body


def decode_hello(body: bytes) -> Hello:
    """ValueError where the body is no HELLO. Of one that speaks no version known here, only versions and role are read.

    What a later version has appended is passed over.
    """
    if len(body) < _HELLO.size or body[:4] != MAGIC:
        raise ValueError("the magic bytes are missing")
    _, version, role, older = _HELLO.unpack_from(body)
    oldest = version - older
    if not version or oldest > PROTOCOL_VERSION:
        return Hello(version, role, "", "", b"", oldest=oldest)
    if oldest < 1:
        raise ValueError("reserved bits are set: versions begin with 1")
    reader = _Reader(body, _HELLO.size)
    hello = Hello(version, role, reader.text(), reader.text(), reader.string(), oldest=oldest)
    if role == PEER_ROLE:
        hello = replace(hello, disk=reader.fields(_DISK)[0], address=reader.text())
        if version >= RESTORED_SINCE:
            hello = replace(hello, restored=reader.text())
    if version <= PROTOCOL_VERSION:
        reader.finish()
    return hello


def encode_hello_reply(reply: HelloReply) -> bytes:
    """The body of the answer to HELLO."""
    header = _HELLO_REPLY.pack(reply.version, reply.newest, reply.max_frame_bytes, reply.max_value_bytes)
    texts = (reply.node_id, reply.cluster, reply.leader_id, reply.leader_address)
    body = header + b"".join(_string(text.encode()) for text in texts)
    return body + _DISK.pack(reply.disk) if reply.disk else body


def decode_hello_reply(body: bytes, role: int = CLIENT_ROLE) -> HelloReply:
    """ValueError where the body is no answer to the HELLO of one of that role."""
    reader = _Reader(body)
    version, newest, max_frame_bytes, max_value_bytes = reader.fields(_HELLO_REPLY)
    reply = HelloReply(
        version, max_frame_bytes, max_value_bytes, reader.text(), reader.text(), reader.text(), reader.text(),
        newest=newest,
    )  # fmt: skip
    if role == PEER_ROLE:
        reply = replace(reply, disk=reader.fields(_DISK)[0])
    reader.finish()
    return reply


def encode_get(key: bytes, consistency: int = Consistency.LINEARIZABLE) -> bytes:
    """The body of GET."""
    return _GET.pack(consistency, 0, _length(key)) + key


def encode_record(record: Record) -> bytes:
    """A record as answers carry it and the store keeps it."""
    return _RECORD.pack(record.mod_revision, record.create_revision, record.version, record.lease) + record.value


def decode_record(body: bytes) -> Record:
    """ValueError where the body is shorter than a record's header."""
    if len(body) < _RECORD.size:
        raise ValueError(f"a record has at least {_RECORD.size} bytes, not {len(body)}")
    mod_revision, create_revision, version, lease = _RECORD.unpack_from(body)
    return Record(mod_revision, create_revision, version, lease, body[_RECORD.size :])


def decode_stale_prefix(body: bytes) -> tuple[int, int]:
    """(applied index, age in milliseconds) in front of an answer flagged STALE. ValueError where they are missing."""
    if len(body) < _STALE.size:
        raise ValueError(f"a stale answer has at least {_STALE.size} bytes, not {len(body)}")
    applied_index, age_ms, _ = _STALE.unpack_from(body)
    return applied_index, age_ms


def decode_revision(body: bytes) -> int:
    """The revision that a write's answer carries. ValueError where the body is none."""
    if len(body) != _REVISION.size:
        raise ValueError(f"a revision has 8 bytes, not {len(body)}")
    revision: int = _REVISION.unpack(body)[0]
    return revision


def encode_scan_request(request: ScanRequest) -> bytes:
    """The body of SCAN."""
    flags = (ScanFlag.REVERSE if request.reverse else 0) | (ScanFlag.KEYS_ONLY if request.keys_only else 0)
    header = _SCAN.pack(
        request.consistency,
        flags,
        _length(request.start),
        _length(request.end),
        _length(request.cursor),
        request.limit,
        request.limit_bytes,
    )
    return header + request.start + request.end + request.cursor


def decode_scan_request(body: bytes) -> ScanRequest:
    """ValueError where the body is no SCAN."""
    reader = _Reader(body)
    consistency, flags, start, end, cursor, limit, limit_bytes = reader.fields(_SCAN)
    if consistency > Consistency.STALE_READ or flags & ~(ScanFlag.REVERSE | ScanFlag.KEYS_ONLY):
        raise ValueError("unknown consistency or flags")
    request = ScanRequest(
        start=reader.span(start),
        end=reader.span(end),
        cursor=reader.span(cursor),
        limit=limit,
        limit_bytes=limit_bytes,
        reverse=bool(flags & ScanFlag.REVERSE),
        keys_only=bool(flags & ScanFlag.KEYS_ONLY),
        consistency=consistency,
    )
    reader.finish()
    return request


def encode_scan_page(revision: int, count: int, cursor: bytes, items: bytes) -> bytes:
    """The body of an answer to SCAN; `items` are already encoded (the table does that while it walks)."""
    return _SCAN_REPLY.pack(revision, count, _length(cursor), 0) + cursor + items


def decode_scan_page(body: bytes) -> ScanPage:
    """ValueError where the body is no answer to SCAN."""
    reader = _Reader(body)
    revision, count, cursor_bytes, _ = reader.fields(_SCAN_REPLY)
    cursor = reader.span(cursor_bytes)
    items = []
    for _ in range(count):
        key_bytes, _, value_bytes = reader.fields(_SCAN_ITEM)
        mod_revision, create_revision, version, lease = reader.fields(_RECORD)
        key = reader.span(key_bytes)
        items.append((key, Record(mod_revision, create_revision, version, lease, reader.span(value_bytes))))
    reader.finish()
    return ScanPage(revision, items, cursor)


def encode_log_request(first: int, limit: int) -> bytes:
    """The body of LOG: at most `limit` entries from index `first` on; 0 for the newest."""
    return _LOG.pack(first, limit)


def decode_log_request(body: bytes) -> tuple[int, int]:
    """First entry and how many. ValueError where the body is no LOG."""
    if len(body) != _LOG.size:
        raise ValueError(f"a LOG body has {_LOG.size} bytes, not {len(body)}")
    first, limit = _LOG.unpack(body)
    if not 1 <= limit <= MAX_LOG_ENTRIES:
        raise ValueError(f"LOG asks for 1 to {MAX_LOG_ENTRIES} entries, not {limit}")
    return first, limit
