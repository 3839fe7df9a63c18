from typing import NamedTuple, final

_Readable = bytes | bytearray | memoryview

class Entry(NamedTuple):
    """One entry, taken out of its batch to be looked at."""

    kind: int
    body: bytes

class DecodedCommand(NamedTuple):
    """A PUT or DELETE, taken apart to be looked at."""

    kind: int
    key: bytes
    value: bytes
    compare: int | None
    lease: int | None
    session: tuple[int, int] | None

class InvalidCommand(ValueError):
    """The bytes are no command; `status` (a `Status`) says why."""

    status: int
    def __init__(self, status: int) -> None: ...

def encode_command(
    kind: int,
    key: bytes,
    value: bytes = b"",
    *,
    compare: int | None = None,
    lease: int | None = None,
    session: tuple[int, int] | None = None,
) -> bytes: ...
def decode_command(kind: int, body: bytes, *, value_limit_bytes: int = 0xFFFF_FFFF) -> DecodedCommand: ...
@final
class EntryBatch:
    """An immutable run of encoded entries: one Raft index each, consecutive, of one term."""

    @property
    def data(self) -> bytes: ...
    @property
    def count(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def checksum(self) -> int: ...
    @property
    def config(self) -> bytes | None: ...
    def __init__(self, data: bytes, count: int, checksum: int | None = None) -> None: ...
    def slice(self, start: int, stop: int) -> EntryBatch: ...
    def fit(self, start: int, max_bytes: int) -> int: ...
    def entries(self) -> list[Entry]: ...
    def check_commands(self, value_limit_bytes: int) -> None: ...
    def __len__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...

@final
class BatchBuilder:
    """The open batch: entries are appended until somebody takes them."""

    @property
    def count(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def __init__(self) -> None: ...
    def append(self, kind: int, body: _Readable) -> None: ...
    def take(self) -> EntryBatch: ...
    def __len__(self) -> int: ...
