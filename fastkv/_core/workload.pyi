from collections.abc import Mapping
from typing import Literal, final

KINDS: tuple[str, ...]
DISTRIBUTIONS: tuple[str, ...]

@final
class Workload:
    """What a load asks for. One run uses one up.

    `mix` says how large a share of the operations is of which kind: `get`; `put` of one of `keys` keys; `insert` of the
    next key beyond them; `scan` of 1 to 100 items from a key on; `modify`, a get and then a put of the same key, which
    together are one operation. The shares need not add up to 1. Keys are `key-` and a number, `key_bytes` in all, and
    are drawn by `distribution`: `uniform`; `zipfian`, a few far more often than others; `latest`, the newer the more
    often. Every value is `value_bytes` long and, from 8 bytes on, like no other. `consistency` as on the wire.

    ValueError for parameters that make no sense.
    """

    def __init__(
        self,
        mix: Mapping[str, float],
        *,
        distribution: Literal["uniform", "zipfian", "latest"] = "uniform",
        keys: int = 100_000,
        key_bytes: int = 16,
        value_bytes: int = 128,
        consistency: int = 0,
        seed: int = 1,
    ) -> None: ...
    def sample(self) -> tuple[str, int, bytes]: ...
