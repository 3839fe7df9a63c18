"""Entries, batches and commands: compiled and reference agree, on good bytes and on bad ones."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from fastkv._core.codes import Kind, Status
from fastkv._core.entry import (
    BatchBuilder,
    EntryBatch,
    InvalidCommand,
    decode_command,
    encode_command,
    encode_session,
)
from tests.core.strategies import damaged, entry_lists, idempotency_keys, sessions, u8, u64, write_kinds
from tests.reference import entry as twin

keys = st.binary(min_size=1, max_size=511)
options = st.fixed_dictionaries(
    {},
    optional={"compare": u64, "lease": u64, "session": sessions | idempotency_keys},
)
any_options = st.fixed_dictionaries(
    {},
    optional={"compare": u64, "lease": u64, "session": sessions | st.tuples(u64, st.sampled_from([0, 2**63]) | u64)},
)
encoded_commands = st.builds(
    lambda key, value, options: twin.encode_command(key, value, **options), keys, st.binary(max_size=50), any_options
)


def build(entries: list[tuple[int, bytes]]) -> EntryBatch:
    builder = BatchBuilder()
    for kind, body in entries:
        builder.append(kind, body)
    return builder.take()


# -- commands --------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(keys, st.binary(max_size=200), options)
def test_command_is_encoded_as_by_the_twin(key: bytes, value: bytes, options: dict[str, object]) -> None:
    body = encode_command(Kind.ENTRY_PUT, key, value, **options)  # type: ignore[arg-type]
    assert body == twin.encode_command(key, value, **options)  # type: ignore[arg-type]
    decoded = decode_command(Kind.ENTRY_PUT, body)
    assert decoded == (
        Kind.ENTRY_PUT, key, value, options.get("compare"), options.get("lease"), options.get("session")
    )  # fmt: skip


def judge(kind: int, body: bytes, value_limit_bytes: int) -> tuple[int, tuple[object, ...] | None]:
    try:
        return Status.OK, tuple(decode_command(kind, body, value_limit_bytes=value_limit_bytes))
    except InvalidCommand as error:
        return error.status, None


@settings(deadline=None, max_examples=400)
@given(write_kinds, encoded_commands | damaged(encoded_commands) | st.binary(max_size=40), st.integers(0, 60))
def test_any_body_is_judged_as_by_the_twin(kind: int, body: bytes, value_limit_bytes: int) -> None:
    assert judge(kind, body, value_limit_bytes) == twin.decode_command(kind, body, value_limit_bytes)


@settings(deadline=None)
@given(encoded_commands)
def test_every_truncation_is_judged_as_by_the_twin(body: bytes) -> None:
    for nbytes in range(min(len(body), 48)):
        assert judge(Kind.ENTRY_PUT, body[:nbytes], 100) == twin.decode_command(Kind.ENTRY_PUT, body[:nbytes], 100)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", Status.INVALID_REQUEST),
        (b"\x00\x00\x00\x00", Status.INVALID_KEY),
        (b"\x01\x00\x00\x00", Status.INVALID_REQUEST),
        (b"\x00\x02\x00\x00" + bytes(512), Status.KEY_TOO_LARGE),
        (b"\x01\x00\x00\x00k" + bytes(11), Status.VALUE_TOO_LARGE),
        (b"\x01\x00\x08\x00k", Status.INVALID_REQUEST),
        (b"\x01\x00\x00\x01k", Status.INVALID_REQUEST),
        (b"\x01\x00\x01\x00k", Status.INVALID_REQUEST),
    ],
    ids=["empty", "no key", "half a key", "long key", "long value", "unknown flag", "reserved byte", "half a revision"],
)
def test_what_is_wrong_is_said(body: bytes, status: Status) -> None:
    with pytest.raises(InvalidCommand, match=status.name) as raised:
        decode_command(Kind.ENTRY_PUT, body, value_limit_bytes=10)
    assert raised.value.status == status


def test_a_delete_has_no_value() -> None:
    assert decode_command(Kind.ENTRY_DELETE, encode_command(Kind.ENTRY_DELETE, b"k")).key == b"k"
    with pytest.raises(InvalidCommand) as raised:
        decode_command(Kind.ENTRY_DELETE, encode_command(Kind.ENTRY_PUT, b"k", b"v"))
    assert raised.value.status == Status.INVALID_REQUEST


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        (Kind.ENTRY_PUT, b"", b""),
        (Kind.ENTRY_PUT, bytes(512), b""),
        (Kind.ENTRY_DELETE, b"k", b"v"),
        (Kind.NOOP, b"k", b""),
    ],
)
def test_encoder_refuses_what_no_server_takes(kind: Kind, key: bytes, value: bytes) -> None:
    with pytest.raises(ValueError, match=r"key has 1 to 511|command is a PUT"):
        encode_command(kind, key, value)


@pytest.mark.parametrize("number", [-1, 2**64])
def test_encoder_refuses_a_revision_outside_64_bits(number: int) -> None:
    with pytest.raises(OverflowError):
        encode_command(Kind.ENTRY_PUT, b"k", compare=number)


@pytest.mark.parametrize("sequence", [0, 2**63, 2**64 - 1])
def test_a_session_has_no_such_sequence(sequence: int) -> None:
    with pytest.raises(ValueError, match="sequences go from 1"):
        encode_command(Kind.ENTRY_PUT, b"k", session=(7, sequence))
    encode_command(Kind.ENTRY_PUT, b"k", session=(2**63 + 7, sequence))


def test_opening_a_session() -> None:
    assert encode_session(4096) == b"\1\0\0\0\0\x10\0\0"
    for limit in (0, 65_537):
        with pytest.raises(ValueError, match="1 to 65536 sessions"):
            encode_session(limit)


# -- batches ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(entry_lists)
def test_batch_is_built_as_by_the_twin(entries: list[tuple[int, bytes]]) -> None:
    batch = build(entries)
    data = twin.encode_batch(entries)
    assert (batch.data, batch.count, len(batch), batch.nbytes) == (data, len(entries), len(entries), len(data))
    assert batch.entries() == entries
    assert batch.checksum == xxh3_64_intdigest(data)
    assert batch == EntryBatch(data, len(entries), batch.checksum)


@settings(deadline=None, max_examples=400)
@given(damaged(entry_lists.map(twin.encode_batch)) | st.binary(max_size=60), st.integers(-1, 14))
def test_any_bytes_are_a_batch_just_where_the_twin_says_so(data: bytes, count: int) -> None:
    try:
        expected = twin.decode_batch(data, count)
    except ValueError:
        with pytest.raises(ValueError, match=r"batch|entry"):
            EntryBatch(data, count)
    else:
        assert EntryBatch(data, count).entries() == expected


@settings(deadline=None)
@given(entry_lists)
def test_every_other_count_is_refused(entries: list[tuple[int, bytes]]) -> None:
    data = twin.encode_batch(entries)
    for count in (-1, 0, len(entries) - 1, len(entries) + 1, 2**62):
        with pytest.raises(ValueError, match=r"batch|entry"):
            EntryBatch(data, count)


@settings(deadline=None)
@given(entry_lists, st.data())
def test_slice_is_a_batch_of_those_entries(entries: list[tuple[int, bytes]], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(entries) - 1))
    stop = data.draw(st.integers(start + 1, len(entries)))
    batch = build(entries)
    part = batch.slice(start, stop)
    assert part == build(entries[start:stop])
    assert part.count == stop - start
    assert part.checksum == xxh3_64_intdigest(part.data)
    assert part.entries() == entries[start:stop]
    assert batch.entries() == entries


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (1, 1), (2, 1), (-1, 1), (0, 3), (2, 3)])
def test_slice_of_no_entries_is_refused(start: int, stop: int) -> None:
    with pytest.raises(IndexError):
        build([(0, b""), (1, b"one")]).slice(start, stop)


@settings(deadline=None)
@given(entry_lists, st.data(), st.integers(-10, 400))
def test_fit_takes_as_many_as_the_budget_allows(
    entries: list[tuple[int, bytes]], data: st.DataObject, max_bytes: int
) -> None:
    start = data.draw(st.integers(0, len(entries) - 1))
    expected = max(
        [start + 1]
        + [n for n in range(start + 1, len(entries) + 1) if len(twin.encode_batch(entries[start:n])) <= max_bytes]
    )
    assert build(entries).fit(start, max_bytes) == expected


@pytest.mark.parametrize("start", [-1, 2])
def test_fit_needs_an_entry_to_start_with(start: int) -> None:
    with pytest.raises(IndexError):
        build([(0, b""), (0, b"")]).fit(start, 100)


def test_announced_checksum_is_verified() -> None:
    batch = build([(1, b"body")])
    with pytest.raises(ValueError, match="checksum"):
        EntryBatch(batch.data, 1, batch.checksum ^ 1)


def test_a_batch_does_not_change() -> None:
    batch = build([(1, b"body")])
    batch.entries()
    with pytest.raises(TypeError):
        batch.__init__(twin.encode_batch([(2, b"")] * 9), 9)
    assert batch.entries() == [(1, b"body")]
    with pytest.raises(TypeError):
        pickle.dumps(batch)
    with pytest.raises(TypeError):
        copy.copy(batch)
    with pytest.raises(TypeError):
        hash(batch)


def test_an_object_without_its_constructor_is_an_empty_batch() -> None:
    empty = EntryBatch.__new__(EntryBatch)
    assert (empty.count, empty.nbytes, empty.entries()) == (0, 0, [])
    with pytest.raises(IndexError):
        empty.slice(0, 1)


def test_builder_is_empty_after_take() -> None:
    builder = BatchBuilder()
    builder.append(1, b"first")
    assert (builder.count, len(builder), builder.nbytes) == (1, 1, 13)
    assert builder.take().entries() == [(1, b"first")]
    assert (builder.count, builder.nbytes) == (0, 0)
    with pytest.raises(ValueError, match="at least one entry"):
        builder.take()
    builder.append(2, b"second")
    assert builder.take().entries() == [(2, b"second")]


encoded_sessions = st.builds(encode_session, st.integers(1, 65_536))
asked_for = st.tuples(write_kinds, encoded_commands) | st.tuples(st.just(Kind.ENTRY_SESSION), encoded_sessions)
wrongly_asked_for = st.tuples(write_kinds, damaged(encoded_commands)) | st.tuples(
    st.just(Kind.ENTRY_SESSION) | u8, damaged(encoded_sessions) | encoded_sessions | encoded_commands
)


@settings(deadline=None)
@given(st.lists(asked_for | asked_for | wrongly_asked_for, min_size=1, max_size=4), st.integers(0, 60))
def test_a_batch_of_commands_is_told_from_any_other(entries: list[tuple[int, bytes]], value_limit_bytes: int) -> None:
    if all(twin.may_be_asked_for(kind, body, value_limit_bytes) for kind, body in entries):
        build(entries).check_commands(value_limit_bytes)
    else:
        with pytest.raises(ValueError, match=r"neither PUT, DELETE nor SESSION|not a command"):
            build(entries).check_commands(value_limit_bytes)


@pytest.mark.parametrize("kind", [Kind.NOOP, Kind.ENTRY_CONFIG])
def test_what_only_a_leader_may_write_is_no_command(kind: Kind) -> None:
    with pytest.raises(ValueError, match="neither PUT, DELETE nor SESSION"):
        build([(kind, b"")]).check_commands(100)
