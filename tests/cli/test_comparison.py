"""Whether nodes have the same data, while they may be at different revisions."""

from __future__ import annotations

import pytest

from fastkv.cli.inspect.comparison import Agreement, agreement_of
from fastkv.client.results import Item

OLD, NEW = Item(b"k", b"old", revision=3), Item(b"k", b"new", revision=8)


@pytest.mark.parametrize(
    ("items", "revisions", "agreement"),
    [
        ((OLD, OLD), (5, 5), Agreement.SAME),
        ((OLD, OLD), (5, 9), Agreement.SAME),
        ((None, None), (5, 9), Agreement.SAME),
        ((OLD, NEW), (5, 9), Agreement.BEHIND),                 # written again since
        ((None, NEW), (5, 9), Agreement.BEHIND),                # written since
        ((OLD, None), (5, 9), Agreement.BEHIND),                # deleted since, as far as one can tell
        ((NEW, OLD), (9, 5), Agreement.BEHIND),                 # in whichever order the nodes are named
        ((OLD, NEW), (9, 9), Agreement.DIFFERENT),
        ((OLD, None), (9, 9), Agreement.DIFFERENT),
        ((None, OLD), (5, 9), Agreement.DIFFERENT),             # the older snapshot must have what is from before it
        ((OLD, Item(b"k", b"other", revision=3)), (5, 9), Agreement.DIFFERENT),
        ((OLD, Item(b"k", b"older", revision=2)), (5, 9), Agreement.DIFFERENT),
    ],
)
def test_two_nodes(
    items: tuple[Item | None, Item | None], revisions: tuple[int, int], agreement: Agreement
) -> None:
    assert agreement_of(dict(zip("ab", items, strict=True)), dict(zip("ab", revisions, strict=True))) is agreement


def test_the_worst_of_any_two_counts() -> None:
    revisions = {"a": 5, "b": 9, "c": 9}
    assert agreement_of({"a": OLD, "b": NEW, "c": NEW}, revisions) is Agreement.BEHIND
    assert agreement_of({"a": OLD, "b": NEW, "c": OLD}, revisions) is Agreement.DIFFERENT
