"""What a load asks for. `sample` makes bytes objects, which the load generator does not: it writes into its buffers.

So these figures are upper bounds of what choosing a request costs, and their differences are those of the mixtures.
"""

from __future__ import annotations

from itertools import repeat

import pytest

from bench.micro.data import KEY_BYTES, KEYS, VALUE_BYTES
from bench.micro.measure import Measure
from fastkv._core.workload import Workload
from fastkv.client.load import MIXES

COUNT = 1024


@pytest.mark.parametrize("mix", ["reads", "writes", "ycsb-a", "ycsb-d", "ycsb-e"])
def bench_sample(measure: Measure, mix: str) -> None:
    """The next request: its kind, its key, its frame."""
    shares, distribution = MIXES[mix]
    workload = Workload(
        shares, distribution=distribution, keys=KEYS, key_bytes=KEY_BYTES, value_bytes=VALUE_BYTES, seed=1
    )

    def sample() -> list[tuple[str, int, bytes]]:
        return [workload.sample() for _ in repeat(None, COUNT)]

    requests = measure.repeat(sample, operations=COUNT)
    assert {kind for kind, _, _ in requests} == set(shares)
