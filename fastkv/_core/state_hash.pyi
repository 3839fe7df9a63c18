from collections.abc import Iterable

from fastkv._core.idempotency import IdempotencyKeys
from fastkv._core.sessions import Sessions

FIRST_OF_KEYS: bytes

class HashPoints:
    def listed(self) -> list[tuple[int, int]]: ...

def load_sessions(records: Iterable[tuple[bytes, bytes]]) -> tuple[Sessions, IdempotencyKeys]: ...
def hash_of(items: Iterable[tuple[bytes, bytes]], sessions: Iterable[tuple[bytes, bytes]] = ()) -> int: ...
