from collections.abc import Callable, Iterator
from typing import Any

from fastkv._core.memtable import Memtable

class TableSnapshot:
    revision: int
    is_open: bool
    def __init__(
        self,
        newer: Memtable,
        older: Memtable | None,
        view: Any,
        revision: int,
        on_close: Callable[[int], None],
    ) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> TableSnapshot: ...
    def __exit__(self, *error: object) -> None: ...
    def scan(
        self, start: bytes, end: bytes, limit: int, limit_bytes: int, reverse: bool = False, keys_only: bool = False
    ) -> tuple[bytes, int, bytes, bool]: ...
    def items(self) -> Iterator[tuple[bytes, bytes]]: ...

class Overlay:
    def __init__(self, table: Memtable | None, revision: int, start: bytes, end: bytes, reverse: bool) -> None: ...
