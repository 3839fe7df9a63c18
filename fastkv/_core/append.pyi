from fastkv._core.entry import EntryBatch
from fastkv.log_types import Segment

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
def fill(segments: list[Segment], first_index: int, max_bytes: int, max_entries: int) -> list[Segment]: ...
