"""The append batcher: compiled and reference agree, damage is always noticed, budgets are kept."""

from __future__ import annotations

import struct

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fastkv._core.append import encode_append, fill, parse_append
from fastkv._core.entry import BatchBuilder, EntryBatch
from fastkv.log_types import Segment
from tests.core.strategies import damaged, entry_lists, u64
from tests.reference import append as twin
from tests.reference.entry import encode_batch


@st.composite
def appends(draw: st.DrawFn) -> twin.Append:
    runs = draw(st.lists(entry_lists, max_size=4))
    terms = sorted(draw(st.lists(u64, min_size=len(runs) + 2, max_size=len(runs) + 2)))
    batches = [(term, len(run), encode_batch(run)) for term, run in zip(terms[1:-1], runs, strict=True)]
    prev_index = draw(st.integers(0, 2**64 - 1 - sum(map(len, runs))))
    return terms[-1], prev_index, terms[0], draw(u64), draw(u64), draw(u64), batches


def as_twin(parsed: tuple[int, int, int, int, int, int, list[tuple[int, EntryBatch]]]) -> twin.Append:
    term, prev_index, prev_term, commit, low_water, context, batches = parsed
    payloads = [(batch_term, batch.count, batch.data) for batch_term, batch in batches]
    return term, prev_index, prev_term, commit, low_water, context, payloads


@settings(deadline=None)
@given(appends())
def test_body_is_written_and_read_as_by_the_twin(append: twin.Append) -> None:
    term, prev_index, prev_term, commit, low_water, context, payloads = append
    batches = [(batch_term, EntryBatch(data, count)) for batch_term, count, data in payloads]
    body = encode_append(term, prev_index, prev_term, commit, low_water, context, batches)
    assert body == twin.encode_append(append)
    assert as_twin(parse_append(body)) == append


@settings(deadline=None, max_examples=500)
@given(damaged(appends().map(twin.encode_append)) | st.binary(max_size=100))
def test_damaged_body_is_judged_as_by_the_twin(body: bytes) -> None:
    try:
        expected = twin.parse_append(body)
    except ValueError:
        with pytest.raises(ValueError, match=r"batch|entry|APPEND|append"):
            parse_append(body)
    else:
        assert as_twin(parse_append(body)) == expected


@settings(deadline=None, max_examples=20)
@given(appends())
def test_every_truncation_is_refused(append: twin.Append) -> None:
    body = twin.encode_append(append)
    for nbytes in range(len(body)):
        with pytest.raises(ValueError, match=r"batch|APPEND"):
            parse_append(body[:nbytes])


@settings(deadline=None, max_examples=20)
@given(appends(), st.integers(0, 7))
def test_every_flipped_bit_of_a_payload_is_noticed(append: twin.Append, bit: int) -> None:
    assume(append[-1])
    body = bytearray(twin.encode_append(append))
    start = len(body) - len(append[-1][-1][2])
    for at in range(start, len(body)):
        body[at] ^= 1 << bit
        with pytest.raises(ValueError, match=r"checksum|entry|batch"):
            parse_append(bytes(body))
        body[at] ^= 1 << bit


PAYLOAD = encode_batch([(1, b"body")])
HOSTILE = {
    "more batches than bytes": twin.HEADER.pack(1, 0, 0, 0, 0, 0, 2**32 - 1, 0),
    "more entries than bytes": twin.HEADER.pack(1, 0, 0, 0, 0, 0, 1, 0) + twin.BATCH_HEADER.pack(1, 2**32 - 1, 0, 0),
    "a payload that is not there": twin.HEADER.pack(1, 0, 0, 0, 0, 0, 1, 0)
    + twin.BATCH_HEADER.pack(1, 1, 2**32 - 1, 0),
    "reserved bits": twin.HEADER.pack(1, 0, 0, 0, 0, 0, 0, 1),
    "bytes behind the end": twin.HEADER.pack(1, 0, 0, 0, 0, 0, 0, 0) + b"\x00",
    "a batch without entries": twin.encode_append((1, 0, 0, 0, 0, 0, [(1, 0, b"")])),
    "a term from the future": twin.encode_append((1, 0, 0, 0, 0, 0, [(2, 1, PAYLOAD)])),
    "a term that goes back": twin.encode_append((3, 0, 0, 0, 0, 0, [(2, 1, PAYLOAD), (1, 1, PAYLOAD)])),
    "a term below the previous entry's": twin.encode_append((3, 9, 2, 0, 0, 0, [(1, 1, PAYLOAD)])),
    "indexes beyond 64 bits": twin.encode_append((1, 2**64 - 1, 0, 0, 0, 0, [(1, 1, PAYLOAD)])),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_body_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"batch|entry|APPEND|append"):
        parse_append(body)
    with pytest.raises(ValueError, match=r"batch|half|number|no log|term|index|entries"):
        twin.parse_append(body)


def test_the_received_checksum_is_the_batch_s_own() -> None:
    body = encode_append(1, 0, 0, 0, 0, 0, [(1, EntryBatch(PAYLOAD, 1))])
    ((_, batch),) = parse_append(body)[-1]
    assert batch.checksum == struct.unpack_from("<Q", body, twin.HEADER.size + 16)[0]


def test_number_outside_64_bits_is_refused() -> None:
    for value in (-1, 2**64):
        with pytest.raises(OverflowError):
            encode_append(value, 0, 0, 0, 0, 0, [])
        with pytest.raises(OverflowError):
            encode_append(1, 0, 0, 0, 0, 0, [(value, EntryBatch(PAYLOAD, 1))])


# -- fill ------------------------------------------------------------------------------------------------------------


def make_log(lengths: list[list[int]], first_index: int) -> list[Segment]:
    """One segment for each list, one entry with a body of so many bytes for each of its numbers."""
    segments = []
    for term, bodies in enumerate(lengths):
        builder = BatchBuilder()
        for nbytes in bodies:
            builder.append(1, bytes(nbytes))
        segments.append(Segment(first_index, term, builder.take()))
        first_index += len(bodies)
    return segments


def flatten(segments: list[Segment]) -> list[tuple[int, int, bytes]]:
    """(index, term, body) of every entry."""
    return [
        (segment.first_index + i, segment.term, entry.body)
        for segment in segments
        for i, entry in enumerate(segment.batch.entries())
    ]


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6), min_size=1, max_size=5),
    st.integers(1, 100),
    st.integers(0, 12),
    st.integers(-5, 250),
    st.integers(-2, 15),
)
def test_fill_takes_entries_in_order_within_both_budgets(
    lengths: list[list[int]], log_start: int, skip: int, max_bytes: int, max_entries: int
) -> None:
    log = make_log(lengths, log_start)
    wanted = [entry for entry in flatten(log) if entry[0] >= log_start + skip]
    expected: list[tuple[int, int, bytes]] = []
    for entry in wanted:
        nbytes = sum(8 + len(body) for _, _, body in [*expected, entry])
        if expected and (nbytes > max_bytes or len(expected) == max(max_entries, 1)):
            break
        expected.append(entry)
    assert flatten(fill(log, log_start + skip, max_bytes, max_entries)) == expected


def test_fill_passes_whole_segments_on_as_they_are() -> None:
    log = make_log([[10, 20], [30]], 5)
    taken = fill(log, 5, 1000, 1000)
    assert [piece is segment for piece, segment in zip(taken, log, strict=True)] == [True, True]


def test_fill_of_nothing_is_nothing() -> None:
    assert fill([], 1, 100, 100) == []
    assert fill(make_log([[1]], 5), 6, 100, 100) == []
