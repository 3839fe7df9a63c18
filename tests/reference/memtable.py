"""A memtable as one would write it down to explain it: the twin of `fastkv._core.memtable`.

It forgets nothing: every write of a key is kept, newest last. What the compiled one overwrites is its own affair; what
can be asked of it is the newest record, and what a snapshot that was declared at the time of a write still sees.
"""

from __future__ import annotations

RECORD_HEADER_BYTES = 32


class Memtable:
    """Keys, each with all its records; None where the key was deleted."""

    def __init__(self) -> None:
        self.writes: dict[bytes, list[tuple[int, bytes | None]]] = {}

    def __len__(self) -> int:
        return len(self.writes)

    def write(self, key: bytes, record: bytes | None, revision: int) -> None:
        stored = None if record is None else revision.to_bytes(8, "little") + record[8:]
        self.writes.setdefault(key, []).append((revision, stored))

    def read(self, key: bytes, revision: int = 2**64 - 1) -> tuple[bool, bytes | None]:
        for written, record in reversed(self.writes.get(key, [])):
            if written <= revision:
                return True, record
        return False, None

    def items(self) -> list[tuple[bytes, bytes | None]]:
        return [(key, self.writes[key][-1][1]) for key in sorted(self.writes)]
