"""`fastkv mget`, `cas` and `incr`, and what they say where it does not go as asked."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Self

import click
import pytest
from click.testing import CliRunner, Result

import fastkv.cli.changes
from fastkv import errors
from fastkv.cli import cli
from fastkv.cli.advice import ADVICE
from fastkv.cli.changes import HIGH, LOW
from fastkv.cli.local.detached import BadRecordError
from fastkv.cli.local.plan import CannotStartError
from fastkv.client import ClientClosed, Item
from fastkv.errors import FastKVError, OutcomeUnknown, PreconditionFailed


@dataclass
class OneKey:
    """A client of a store with one key, which others write to as well."""

    value: bytes | None = None
    revision: int = 0
    others: list[bytes] = field(default_factory=list)
    """What somebody else writes just before each of our own writes, until there is no more."""
    error: FastKVError | None = None
    puts: int = 0

    def connect(self, *_: Any, **options: Any) -> OneKey:
        assert options["exactly_once"] is False, "one write of a process is not worth a session in every node"
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def get(self, key: bytes, *, timeout: float) -> Item:
        assert timeout > 0
        return Item(key, self.value, revision=self.revision)

    def put(self, key: bytes, value: bytes | str, *, if_revision: int, timeout: float | None = None) -> int:
        self.puts += 1
        if self.error is not None:
            raise self.error
        if self.others:
            self.value = self.others.pop(0)
            self.revision += 1
        if if_revision != self.revision:
            raise PreconditionFailed(f"the key is at revision {self.revision}", revision=self.revision)
        self.value = value.encode() if isinstance(value, str) else value
        self.revision += 1
        return self.revision


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> OneKey:
    fake = OneKey()
    monkeypatch.setattr(fastkv.cli.changes, "connect", fake.connect)
    return fake


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, input=stdin, prog_name="fastkv")


def test_cas_stores_on_its_condition_and_says_what_is_there_otherwise(store: OneKey) -> None:
    result = run("cas", "k", "0", "-", stdin=b"\xff\n")
    assert (result.exit_code, result.stdout, store.value) == (0, "revision 1\n", b"\xff\n")
    result = run("cas", "k", "7", "x", "--json")
    answer = json.loads(result.stdout)
    assert (result.exit_code, answer["code"], answer["revision"]) == (1, "PRECONDITION_FAILED", 1)
    assert store.value == b"\xff\n"
    assert json.loads(run("cas", "k", "1", "y", "--json").stdout) == {"key": "k", "revision": 2}
    assert run("cas", "k", "-1", "y").exit_code == 2
    assert run("cas", "k", "y").exit_code == 2


def test_incr_counts_from_0_and_by_what_it_is_told(store: OneKey) -> None:
    assert run("incr", "k").stdout == "1\n"
    assert run("incr", "k", "--by", "-11").stdout == "-10\n"
    assert store.value == b"-10"
    answer = json.loads(run("incr", "k", "--json").stdout)
    assert answer == {"key": "k", "value": "-9", "number": -9, "revision": 3}


def test_incr_adds_to_what_others_have_written_meanwhile(store: OneKey) -> None:
    store.others = [b"100", b"200", b"300"]
    assert run("incr", "k").stdout == "301\n"
    assert store.puts == 4


def test_incr_ends_as_not_done_where_others_are_always_faster(store: OneKey) -> None:
    store.others = [b"%d" % i for i in range(100_000)]
    result = run("incr", "k", "--timeout", "0.05")
    assert result.exit_code == 4
    assert "between every read and write" in result.stderr


def test_incr_does_not_try_again_what_may_have_been_done(store: OneKey) -> None:
    store.error = OutcomeUnknown("the write was sent, and may or may not be applied")
    result = run("incr", "k", "--json")
    assert (result.exit_code, json.loads(result.stdout)["code"], store.puts) == (5, "OUTCOME_UNKNOWN", 1)


@pytest.mark.parametrize("value", [b"", b"x", b"1.5", b" 1", b"1\n", b"99999999999999999999", b"9223372036854775808"])
def test_incr_leaves_alone_what_is_no_number(store: OneKey, value: bytes) -> None:
    store.value, store.revision = value, 3
    result = run("incr", "k")
    assert (result.exit_code, store.puts) == (1, 0)
    assert result.stderr.startswith("error: k holds ")
    assert "\nhint: " in result.stderr


def test_incr_does_not_wrap_around(store: OneKey) -> None:
    store.value, store.revision = b"%d" % HIGH, 3
    assert run("incr", "k").exit_code == 1
    assert run("incr", "k", "--by", str(LOW)).stdout == "-1\n"


def test_mget_needs_a_key() -> None:
    assert run("mget").exit_code == 2


def every_error(kind: type[FastKVError] = FastKVError) -> set[type[FastKVError]]:
    return {kind}.union(*map(every_error, kind.__subclasses__()))


def test_every_error_has_its_advice_or_says_itself_what_to_do() -> None:
    assert {BadRecordError, CannotStartError, ClientClosed} <= every_error()
    codes = {kind.code for kind in every_error() if kind.__module__.startswith(("fastkv.errors", "fastkv.cl"))}
    assert codes | {"KEY_NOT_FOUND"} == ADVICE.keys()
    assert all(kind.code in codes for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code"))


def test_advice_names_commands_and_options_that_exist() -> None:
    for text in ADVICE.values():
        for words in (part.split() for part in text.split("`")[1::2]):
            assert words[0] == "fastkv"
            known: click.Command = cli
            for word in words[1:]:
                if not isinstance(known, click.Group):
                    break
                found = known.get_command(click.Context(known), word)
                assert found is not None, words
                known = found
            options = {name for parameter in known.params for name in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= options
