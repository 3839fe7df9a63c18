from typing import Final

_Readable = bytes | bytearray | memoryview

RECORD_HEADER_BYTES: Final[int]
MAX_PAYLOAD_BYTES: Final[int]
ENTRIES: Final[int]
STATE: Final[int]
RESTART: Final[int]

def parse_record(
    data: _Readable, offset: int, position: int, salt: int
) -> tuple[int, int, int, int, int, int, int, int, int, int, int] | None: ...
def find_header(data: _Readable, offset: int, position: int) -> int: ...
def follow_run(
    data: _Readable,
    offset: int,
    position: int,
    salt: int,
    chain: int,
    last_index: int,
    term: int,
    *,
    max_bytes: int,
) -> tuple[int, int, int, int, int, bytes]: ...
