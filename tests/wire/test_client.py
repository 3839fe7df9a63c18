"""What clients and servers say: every body survives the way there and back, and nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkv._core.codes import Consistency
from fastkv.wire.client import (
    CLIENT_ROLE,
    MAGIC,
    PEER_ROLE,
    PROTOCOL_VERSION,
    STALE_PREFIX_BYTES,
    Hello,
    HelloReply,
    Record,
    ScanPage,
    ScanRequest,
    decode_hello,
    decode_hello_reply,
    decode_record,
    decode_revision,
    decode_scan_page,
    decode_scan_request,
    decode_stale_prefix,
    encode_get,
    encode_hello_body,
    encode_hello_reply,
    encode_record,
    encode_scan_page,
    encode_scan_request,
)
from tests.core.strategies import damaged, u8, u16, u64

u32 = st.integers(0, 2**32 - 1)
texts = st.text(max_size=20)
blobs = st.binary(max_size=40)
hellos = st.builds(
    Hello, st.integers(1, PROTOCOL_VERSION), st.sampled_from([CLIENT_ROLE, PEER_ROLE]), texts, texts, blobs
)
replies = st.builds(HelloReply, u16, u32, u32, texts, texts, texts, texts)
records = st.builds(Record, u64, u64, u64, u64, blobs)
requests = st.builds(
    ScanRequest,
    start=blobs,
    end=blobs,
    limit=u32,
    limit_bytes=u32,
    reverse=st.booleans(),
    keys_only=st.booleans(),
    cursor=blobs,
    consistency=st.sampled_from(list(Consistency)).map(int),
)
pages = st.builds(ScanPage, u64, st.lists(st.tuples(blobs, records), max_size=5), blobs)


def encode_hello(hello: Hello) -> bytes:
    return encode_hello_body(hello.role, hello.id, hello.cluster, hello.credentials, version=hello.version)


def encode_page(page: ScanPage) -> bytes:
    items = b"".join(
        len(key).to_bytes(2, "little")
        + bytes(2)
        + len(record.value).to_bytes(4, "little")
        + encode_record(record)[:32]
        + key
        + record.value
        for key, record in page.items
    )
    return encode_scan_page(page.revision, len(page.items), page.cursor, items)


FORMS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], bytes], Callable[[bytes], Any]]] = {
    "HELLO": (hellos, encode_hello, decode_hello),
    "HELLO reply": (replies, encode_hello_reply, decode_hello_reply),
    "record": (records, encode_record, decode_record),
    "SCAN": (requests, encode_scan_request, decode_scan_request),
    "SCAN page": (pages, encode_page, decode_scan_page),
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


@forms
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_what_is_encoded_is_decoded(form: Any, data: st.DataObject) -> None:
    values, encode, decode = form
    value = data.draw(values)
    assert decode(encode(value)) == value


@forms
@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_mean_something_else(form: Any, data: st.DataObject) -> None:
    values, encode, decode = form
    body = data.draw(damaged(values.map(encode)) | st.binary(max_size=60))
    try:
        value = decode(body)
    except ValueError:
        return
    # Whatever is taken says all that the bytes say: nothing follows unread, and nothing is taken twice.
    if not (isinstance(value, Hello) and value.version not in (1, PROTOCOL_VERSION)):
        assert len(encode(value)) == len(body)


@forms
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_every_truncation_is_refused(form: Any, data: st.DataObject) -> None:
    values, encode, decode = form
    value = data.draw(values)
    body = encode(value)
    whole_from = 32 if isinstance(value, Record) else len(body)     # a record's value is whatever follows its header
    for nbytes in range(whole_from):
        with pytest.raises(ValueError, match=r"too soon|missing|at least"):
            decode(body[:nbytes])


@forms
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_bytes_behind_the_end_are_refused(form: Any, data: st.DataObject) -> None:
    values, encode, decode = form
    value = data.draw(values)
    if not isinstance(value, Record):
        with pytest.raises(ValueError, match="too many"):
            decode(encode(value) + b"\x00")


def test_hello_that_speaks_no_version_known_here_says_which_it_speaks_whatever_follows() -> None:
    assert decode_hello(MAGIC + b"\x09\x00\x01\x02" + b"\xff" * 30) == Hello(9, CLIENT_ROLE, "", "", b"", oldest=7)
    assert decode_hello(MAGIC + b"\x00\x00\x01\x00" + b"\xff" * 30) == Hello(0, CLIENT_ROLE, "", "", b"", oldest=0)


def test_hello_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    known = encode_hello_body(
        PEER_ROLE, "node-9", "demo", disk=7, address="h:1", restored="0123456789abcdef", version=PROTOCOL_VERSION
    )
    later = known[:4] + (PROTOCOL_VERSION + 1).to_bytes(2, "little") + known[6:7] + b"\x01" + known[8:]
    hello = Hello(
        PROTOCOL_VERSION + 1, PEER_ROLE, "node-9", "demo", b"", 7, "h:1", PROTOCOL_VERSION, "0123456789abcdef"
    )
    assert decode_hello(later + b"appended later") == hello
    with pytest.raises(ValueError, match="too many"):
        decode_hello(known + b"appended later")


def test_the_first_version_of_a_node_s_hello_says_nothing_of_restores() -> None:
    body = encode_hello_body(PEER_ROLE, "node-9", "demo", disk=7, address="h:1", restored="0123456789abcdef", version=1)
    assert decode_hello(body) == Hello(1, PEER_ROLE, "node-9", "demo", b"", 7, "h:1")


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (b"", "magic"),
        (b"GET / HTTP/1.1\r\n", "magic"),
        (MAGIC + b"\x01\x00\x01", "magic"),
        (MAGIC + b"\x01\x00\x01\x01" + bytes(6), "reserved"),
        (MAGIC + b"\x02\x00\x01\x02" + bytes(6), "versions begin with 1"),
        (MAGIC + b"\x01\x00\x01\x00" + b"\x01\x00\xff" + bytes(4), "utf-8"),
    ],
)
def test_what_is_no_hello_is_refused(body: bytes, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        decode_hello(body)


@pytest.mark.parametrize("at", [0, 1])
def test_scan_with_an_unknown_consistency_or_flag_is_refused(at: int) -> None:
    body = bytearray(encode_scan_request(ScanRequest()))
    for value in range(256):
        body[at] = value
        if value <= (2, 3)[at]:
            decode_scan_request(bytes(body))
        else:
            with pytest.raises(ValueError, match="unknown consistency or flags"):
                decode_scan_request(bytes(body))


def test_page_that_announces_more_items_than_it_has_is_refused() -> None:
    with pytest.raises(ValueError, match="too soon"):
        decode_scan_page(encode_scan_page(1, 2**32 - 1, b"", b""))


@settings(deadline=None)
@given(u64, u32, records, u8)
def test_stale_prefix_comes_before_the_record(applied_index: int, age_ms: int, record: Record, junk: int) -> None:
    prefix = applied_index.to_bytes(8, "little") + age_ms.to_bytes(4, "little") + bytes([junk, 0, 0, 0])
    body = prefix + encode_record(record)
    assert len(prefix) == STALE_PREFIX_BYTES
    assert decode_stale_prefix(body) == (applied_index, age_ms)
    assert decode_record(body[STALE_PREFIX_BYTES:]) == record
    with pytest.raises(ValueError, match="at least 16 bytes"):
        decode_stale_prefix(prefix[:-1])


@given(u64)
def test_revision_is_eight_bytes(revision: int) -> None:
    body = revision.to_bytes(8, "little")
    assert decode_revision(body) == revision
    for wrong in (body[:7], body + b"\x00", b""):
        with pytest.raises(ValueError, match="8 bytes"):
            decode_revision(wrong)


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: encode_hello_body(CLIENT_ROLE, text.decode(), ""),
        encode_get,
        lambda text: encode_scan_request(ScanRequest(start=text)),
        lambda text: encode_scan_request(ScanRequest(cursor=text)),
        lambda text: encode_scan_page(1, 0, text, b""),
    ],
)
def test_what_does_not_fit_its_length_field_is_refused(encode: Callable[[bytes], bytes]) -> None:
    encode(b"x" * 65535)
    with pytest.raises(ValueError, match="at most 65535 bytes"):
        encode(b"x" * 65536)
