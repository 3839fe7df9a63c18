"""Whether nodes have the same data: their ordered listings, walked side by side.

Each listing is one snapshot, and says of which revision. Nodes that apply the same log have the same state at the same
revision; at different ones, what the older snapshot must have too is all that the newer one shows from before it. So a
cluster can be compared while it is written to, and only what cannot be explained by that is a difference.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from fastkv.client import AsyncClient
from fastkv.client.results import Item
from fastkv.client.scan import Scan


class Agreement(enum.Enum):
    """Of one key, or of all of them together; the worst counts."""

    SAME = "same"
    BEHIND = "behind"
    """A node has not come as far as another, as far as one can tell."""
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True)
class Pair:
    """A key as each node has it; None where it has not."""

    key: bytes
    items: Mapping[str, Item | None]
    agreement: Agreement


@dataclass(slots=True)
class Comparison:
    """What came of the walk so far."""

    revisions: dict[str, int] = field(default_factory=dict)
    keys: dict[str, int] = field(default_factory=dict)
    behind: int = 0
    different: int = 0

    def count(self, pair: Pair) -> None:
        """Take one key into account."""
        for node, item in pair.items.items():
            self.keys[node] += item is not None
        self.behind += pair.agreement is Agreement.BEHIND
        self.different += pair.agreement is Agreement.DIFFERENT


async def compare(nodes: Mapping[str, AsyncClient], prefix: bytes, result: Comparison) -> AsyncIterator[Pair]:
    """Every key that any node has, in order. `result` is complete once the walk has ended.

    Reads what each node has of its own. The errors of any scan: a node that cannot be read makes no comparison.
    """
    scans = {name: client.scan(prefix or None, consistency="stale") for name, client in nodes.items()}
    heads = {name: await _next(scan) for name, scan in scans.items()}
    for name, scan in scans.items():
        assert scan.revision is not None
        result.revisions[name], result.keys[name] = scan.revision, 0
    while keys := [head.key for head in heads.values() if head is not None]:
        key = min(keys)
        items = {name: head if head is not None and head.key == key else None for name, head in heads.items()}
        pair = Pair(key, items, agreement_of(items, result.revisions))
        result.count(pair)
        yield pair
        for name, item in items.items():
            if item is not None:
                heads[name] = await _next(scans[name])


def agreement_of(items: Mapping[str, Item | None], revisions: Mapping[str, int]) -> Agreement:
    """Whether the nodes' items of one key can be of one history, each at the node's revision."""
    agreement = Agreement.SAME
    order = sorted(items, key=revisions.__getitem__)
    for at, older in enumerate(order):
        for newer in order[at + 1 :]:
            if items[older] == items[newer]:
                continue
            there = items[newer]
            is_later = there is not None and there.revision > revisions[older]
            may_be_deleted = there is None and revisions[newer] > revisions[older]
            if not is_later and not may_be_deleted:
                return Agreement.DIFFERENT
            agreement = Agreement.BEHIND
    return agreement


async def _next(scan: Scan) -> Item | None:
    return await anext(scan, None)
