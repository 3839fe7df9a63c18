"""What the property tests of the codecs draw: well-formed things, and well-formed things with damage."""

from __future__ import annotations

from hypothesis import strategies as st

from fastkv._core.codes import Kind

u8 = st.integers(0, 2**8 - 1)
u16 = st.integers(0, 2**16 - 1)
u64 = st.integers(0, 2**64 - 1)
sessions = st.tuples(st.integers(0, 2**63 - 1), st.integers(1, 2**63 - 1))
idempotency_keys = st.tuples(st.integers(2**63, 2**64 - 1), u64)
write_kinds = st.sampled_from([Kind.ENTRY_PUT, Kind.ENTRY_DELETE])
entries = st.tuples(u8, st.binary(max_size=40))
entry_lists = st.lists(entries, min_size=1, max_size=12)
frames = st.tuples(u8, u8, u16, u64, st.binary(max_size=60))


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes of `whole` with one to three wounds: a byte changed, some cut out, some put in, or the end lost."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(["change", "cut", "insert", "truncate"]))
        if how == "change" and at < len(data):
            data[at] = draw(u8)
        elif how == "cut":
            del data[at : at + draw(st.integers(1, 9))]
        elif how == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=9))
        else:
            del data[at:]
    return bytes(data)
