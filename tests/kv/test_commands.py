"""Entries of the log, for a person to read."""

from __future__ import annotations

import pytest

from fastkv._core.codes import Kind
from fastkv._core.entry import Entry, encode_command
from fastkv.kv.commands import NAMES, Description, describe


def test_a_put_says_everything() -> None:
    body = encode_command(Kind.ENTRY_PUT, b"k", b"value", compare=7)
    assert describe(Entry(Kind.ENTRY_PUT, body)) == Description("put", len(body), b"k", b"value", 7)


def test_a_delete_has_no_value() -> None:
    body = encode_command(Kind.ENTRY_DELETE, b"k")
    assert describe(Entry(Kind.ENTRY_DELETE, body)) == Description("delete", len(body), b"k", b"", None)


@pytest.mark.parametrize("kind", sorted(set(Kind) - {Kind.ENTRY_PUT, Kind.ENTRY_DELETE}))
def test_every_other_kind_has_a_name_and_nothing_else(kind: Kind) -> None:
    assert describe(Entry(kind, b"abc")) == Description(kind.name.lower().removeprefix("entry_"), 3)


def test_kinds_of_a_later_version_are_shown_by_number() -> None:
    assert describe(Entry(99, b"")) == Description("kind 99", 0)


def test_every_kind_is_named() -> None:
    assert set(NAMES) == set(Kind)


@pytest.mark.parametrize("kind", [Kind.ENTRY_PUT, Kind.ENTRY_DELETE])
def test_bytes_that_are_no_command(kind: Kind) -> None:
    with pytest.raises(ValueError, match="not a command"):
        describe(Entry(kind, b"\5\0\0\0k"))
