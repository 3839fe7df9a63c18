"""A page of the log, as a person reads it."""

from __future__ import annotations

from fastkv._core.codes import Kind
from fastkv._core.entry import BatchBuilder, encode_command, encode_session
from fastkv.log_types import Segment
from fastkv.node.log_page import described, first_of_page


def test_where_a_page_begins() -> None:
    assert first_of_page(0, 20, 0, 100) == 81
    assert first_of_page(0, 20, 0, 5) == 1
    assert first_of_page(0, 20, 95, 100) == 96
    assert first_of_page(7, 20, 0, 100) == 7
    assert first_of_page(7, 20, 50, 100) == 51
    assert first_of_page(101, 20, 0, 100) == 101


def test_what_is_said_of_each_kind_of_entry() -> None:
    builder = BatchBuilder()
    for kind, body in (
        (Kind.NOOP, b""),
        (Kind.ENTRY_PUT, encode_command(Kind.ENTRY_PUT, b"color", b"blue")),
        (Kind.ENTRY_PUT, encode_command(Kind.ENTRY_PUT, b"\xff", b"", compare=6)),
        (Kind.ENTRY_DELETE, encode_command(Kind.ENTRY_DELETE, "größe".encode())),
        (Kind.ENTRY_SESSION, encode_session(100)),
    ):
        builder.append(kind, body)
    lines = described([Segment(10, 5, builder.take())])
    assert [(line["index"], line["term"], line["kind"]) for line in lines] == [
        (10, 5, "noop"), (11, 5, "put"), (12, 5, "put"), (13, 5, "delete"), (14, 5, "session"),
    ]  # fmt: skip
    assert lines[0] == {"index": 10, "term": 5, "kind": "noop", "bytes": 0}
    assert (lines[1]["key"], lines[1]["value_bytes"], "if_revision" in lines[1]) == ("color", 4, False)
    assert (lines[2]["key_base64"], lines[2]["value_bytes"], lines[2]["if_revision"]) == ("/w==", 0, 6)
    assert lines[3]["key"] == "größe"
