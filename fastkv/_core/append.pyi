from collections.abc import Iterable
from typing import Protocol, Self, TypeVar

from fastkv._core.entry import EntryBatch

class _Segment(Protocol):
    """What `fill` needs of a run of entries; `fastkv.log_types.Segment` is one."""

    first_index: int
    batch: EntryBatch
    def slice(self, first: int, last: int) -> Self: ...

_S = TypeVar("_S", bound=_Segment)

def encode_append(
    term: int,
    prev_index: int,
    prev_term: int,
    commit: int,
    low_water: int,
    context: int,
    batches: list[tuple[int, EntryBatch]],
) -> bytes: ...
def parse_append(body: bytes) -> tuple[int, int, int, int, int, int, list[tuple[int, EntryBatch]]]: ...
def fill(segments: Iterable[_S], first_index: int, max_bytes: int, max_entries: int) -> list[_S]: ...
