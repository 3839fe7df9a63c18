"""docs/protocol.md says what the code does: its example bytes, its tables of numbers, and its smallest client."""

from __future__ import annotations

import re
import socket
import threading
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest

from fastkv._core.codes import (
    MAX_KEY_BYTES,
    SESSION_WINDOW,
    CommandFlag,
    Consistency,
    FrameFlag,
    Kind,
    Opcode,
    ScanFlag,
    Status,
)
from fastkv._core.entry import BatchBuilder, EntryBatch, encode_command
from fastkv._core.frames import FrameReader, encode_frame
from fastkv.log_types import Segment
from fastkv.raft import messages
from fastkv.raft.messages import Message
from fastkv.wire.backup import BackupAsk, encode_backup_ask
from fastkv.wire.client import (
    CLIENT_ROLE,
    MAGIC,
    PEER_ROLE,
    HelloReply,
    Record,
    ScanRequest,
    decode_hello,
    decode_scan_page,
    encode_get,
    encode_hello_body,
    encode_hello_reply,
    encode_log_request,
    encode_record,
    encode_scan_page,
    encode_scan_request,
)
from fastkv.wire.peer import (
    SnapshotAsk,
    SnapshotChunk,
    encode_forward,
    encode_message,
    encode_snapshot_ask,
    encode_snapshot_chunk,
)

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
ANSWER = FrameFlag.RESPONSE
RECORD = Record(mod_revision=7, create_revision=7, version=1, lease=0, value=b"blue")
PUT = encode_command(Kind.ENTRY_PUT, b"color", b"blue")


def u64(number: int) -> bytes:
    return number.to_bytes(8, "little")


def batch(*entries: tuple[int, bytes]) -> EntryBatch:
    builder = BatchBuilder()
    for kind, body in entries:
        builder.append(kind, body)
    return builder.take()


def scan_item(key: bytes, record: Record) -> bytes:
    encoded = encode_record(record)
    lengths = len(key).to_bytes(4, "little") + len(record.value).to_bytes(4, "little")
    return lengths + encoded[:32] + key + encoded[32:]


HELLO_ANSWER = HelloReply(1, 4 << 20, 1 << 20, "node-1", "demo", "node-2", "127.0.0.1:9002", newest=2)
SCAN_ANSWER = encode_scan_page(7, 1, u64(42) + b"color", scan_item(b"color", RECORD))
APPEND = Message(
    messages.APPEND, "node-1", "node-2", term=5, index=9, log_term=4, commit=9, low_water=8,
    segments=[Segment(10, 5, batch((Kind.NOOP, b""), (Kind.ENTRY_PUT, PUT)))],
)  # fmt: skip

EXAMPLES = {
    "hello": encode_frame(Opcode.HELLO, 0, 0, 0, encode_hello_body(CLIENT_ROLE, "", "demo")),
    "hello-answer": encode_frame(Opcode.HELLO, ANSWER, Status.OK, 0, encode_hello_reply(HELLO_ANSWER)),
    "hello-refused": encode_frame(Opcode.ERROR, ANSWER, Status.WRONG_CLUSTER, 0, b"no such cluster here"),
    "hello-node": encode_frame(
        Opcode.HELLO, 0, 0, 0,
        encode_hello_body(PEER_ROLE, "node-2", "demo", disk=77, address="10.0.0.2:9001", version=2),
    ),
    "session": encode_frame(Opcode.SESSION, 0, 0, 7, b"\x01" + bytes(7)),
    "session-answer": encode_frame(Opcode.SESSION, ANSWER, Status.OK, 7, u64(42)),
    "put-in-session": encode_frame(
        Opcode.PUT, 0, 0, 8, encode_command(Kind.ENTRY_PUT, b"color", b"blue", session=(42, 1))
    ),
    "goodbye": encode_frame(Opcode.GOODBYE, ANSWER, Status.OK, 0, b""),
    "log": encode_frame(Opcode.LOG, 0, 0, 10, encode_log_request(0, 20)),
    "backup": encode_frame(Opcode.BACKUP, 0, 0, 11, encode_backup_ask(BackupAsk(0, 0))),
    "admin": encode_frame(Opcode.ADMIN, 0, 0, 9, b'{"do":"members"}'),
    "snapshot-ask": encode_snapshot_ask(SnapshotAsk(900, 1000, 0x55, 4096, 256)),
    "snapshot-chunk": encode_snapshot_chunk(SnapshotChunk(1000, 5, 8192, 0x55, "lmdb-0.9", 4096, b"blue")),
    "put": encode_frame(Opcode.PUT, 0, 0, 1, PUT),
    "put-answer": encode_frame(Opcode.PUT, ANSWER | FrameFlag.CREATED, Status.OK, 1, u64(7)),
    "put-if": encode_frame(Opcode.PUT, 0, 0, 2, encode_command(Kind.ENTRY_PUT, b"color", b"red", compare=6)),
    "put-if-answer": encode_frame(Opcode.PUT, ANSWER, Status.PRECONDITION_FAILED, 2, u64(7)),
    "delete": encode_frame(Opcode.DELETE, 0, 0, 3, encode_command(Kind.ENTRY_DELETE, b"colour")),
    "delete-answer": encode_frame(Opcode.DELETE, ANSWER, Status.KEY_NOT_FOUND, 3, u64(7)),
    "get": encode_frame(Opcode.GET, 0, 0, 4, encode_get(b"color")),
    "get-answer": encode_frame(Opcode.GET, ANSWER, Status.OK, 4, encode_record(RECORD)),
    "get-stale": encode_frame(Opcode.GET, 0, 0, 5, encode_get(b"color", Consistency.STALE_READ)),
    "get-stale-answer": encode_frame(
        Opcode.GET, ANSWER | FrameFlag.STALE, Status.OK, 5, u64(9) + u64(12) + encode_record(RECORD)
    ),
    "scan": encode_frame(Opcode.SCAN, 0, 0, 6, encode_scan_request(ScanRequest(start=b"a", end=b"d", limit=1))),
    "scan-answer": encode_frame(Opcode.SCAN, ANSWER, Status.OK, 6, SCAN_ANSWER),
    "raft": encode_message(Message(messages.VOTE, "node-1", "node-2", term=5, index=9, log_term=4)),
    "append": encode_message(APPEND),
    "forward": encode_forward(1, batch((Kind.ENTRY_PUT, PUT))),
    "forward-reply": encode_frame(Opcode.FORWARD_REPLY, 0, Status.OK, 1, b"\x00\x00\x01\x00" + bytes(4) + u64(7)),
}


WRITTEN = [
    (name, bytes.fromhex(re.sub(r"#.*", "", block)))
    for name, block in re.findall(r"^```hex (\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
]


def test_every_example_is_named_once_and_checked() -> None:
    assert sorted(name for name, _ in WRITTEN) == sorted(EXAMPLES)
    assert PAGE.count("```hex") == len(WRITTEN)


@pytest.mark.parametrize(("name", "written"), WRITTEN, ids=[name for name, _ in WRITTEN])
def test_example_is_what_the_code_sends(name: str, written: bytes) -> None:
    assert written.hex(" ") == EXAMPLES[name].hex(" ")
    assert len(FrameReader(4096).feed(written)) == 1


def test_remarks_count_right() -> None:
    counted = re.findall(r"^```hex (\S+)\n.*# (\d+) bytes", PAGE, re.MULTILINE)
    assert len(counted) > len(EXAMPLES) / 2
    assert {name: int(nbytes) for name, nbytes in counted}.items() <= {
        name: len(frame) - 16 for name, frame in EXAMPLES.items()
    }.items()


def test_scan_answer_is_a_page() -> None:
    page = decode_scan_page(SCAN_ANSWER)
    assert (page.revision, page.items, page.cursor) == (7, [(b"color", RECORD)], u64(42) + b"color")


# -- numbers ---------------------------------------------------------------------------------------------------------


def rows(heading: str) -> dict[str, int]:
    """Name and number of each row of the table whose first two columns are headed so."""
    table = re.search(rf"^\| {heading} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert table, heading
    cells = [[cell.strip() for cell in row.split("|")[1:3]] for row in table[1].splitlines()]
    return {name: int(number, 0) for name, number in cells}


def members(enum: type[IntEnum]) -> dict[str, int]:
    return {member.name: member.value for member in enum}


@pytest.mark.parametrize(
    ("heading", "enum"),
    [
        (r"opcode \| number", Opcode),
        (r"status \| number", Status),
        (r"flag \| bit", FrameFlag),
        (r"command flag \| bit", CommandFlag),
        (r"consistency \| number", Consistency),
        (r"entry kind \| number", Kind),
    ],
)
def test_table_has_every_number(heading: str, enum: type[IntEnum]) -> None:
    assert rows(heading) == members(enum)


def test_table_has_every_kind_of_message() -> None:
    kinds = {name: value for name, value in vars(messages).items() if name.isupper() and isinstance(value, int)}
    assert kinds.pop("TRANSFERRED") == 1        # no kind, but what a VOTE may have as context
    assert rows(r"kind \| number") == kinds


def test_numbers_in_the_text() -> None:
    assert f"REVERSE 0x{ScanFlag.REVERSE:02X}" in PAGE
    assert f"KEYS_ONLY 0x{ScanFlag.KEYS_ONLY:02X}" in PAGE
    assert f'`{MAGIC.hex(" ")}`, "{MAGIC.decode()}"' in PAGE
    assert f"| a key | 1 to {MAX_KEY_BYTES} |" in PAGE
    assert f"more than {SESSION_WINDOW} below" in PAGE


# -- the smallest client ---------------------------------------------------------------------------------------------


def serve_one(listener: socket.socket, heard: list[tuple[int, bytes]]) -> None:
    """A server of one connection that knows one key, with the package's own codecs."""
    connection, _ = listener.accept()
    reader = FrameReader(4096)
    with connection:
        while data := connection.recv(4096):
            for opcode, _, _, request_id, body in reader.feed(data):
                heard.append((opcode, body))
                found = (Status.OK, encode_record(RECORD)) if body[4:] == b"color" else (Status.KEY_NOT_FOUND, b"")
                answers = {
                    Opcode.HELLO: (Status.OK, encode_hello_reply(HELLO_ANSWER)),
                    Opcode.PUT: (Status.OK, u64(7)),
                    Opcode.GET: found,
                }
                status, answer = answers[Opcode(opcode)]
                connection.sendall(encode_frame(opcode, ANSWER, status, request_id, answer))


def test_smallest_client_speaks_the_protocol() -> None:
    source = re.search(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert source
    assert "fastkv" not in source[1]
    names: dict[str, Any] = {}
    exec(source[1], names)
    heard: list[tuple[int, bytes]] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve_one, args=(listener, heard))
        server.start()
        client = names["SmallestClient"](*listener.getsockname())
        assert client.put(b"color", b"blue") == 7
        assert client.get(b"color") == b"blue"
        assert client.get(b"colour") is None
        client.stream.close()
        client.socket.close()
        server.join(timeout=60)
    assert not server.is_alive()
    (_, hello), *requests = heard
    assert decode_hello(hello).role == CLIENT_ROLE
    assert requests == [(Opcode.PUT, PUT), (Opcode.GET, encode_get(b"color")), (Opcode.GET, encode_get(b"colour"))]
