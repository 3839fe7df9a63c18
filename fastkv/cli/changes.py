"""`fastkv cas` and `incr`: changes that depend on what is there."""

from __future__ import annotations

import random
import re
import time

import click

from fastkv.cli.kv import value_bytes
from fastkv.cli.options import endpoints_option, json_option, timeout_option
from fastkv.cli.output import argument_bytes, as_fields, reported, say_json, shown
from fastkv.client import Client, Item, connect
from fastkv.errors import FastKVError, PreconditionFailed, Timeout

MAX_PAUSE_S = 0.1
"""Between two tries of `incr`: longer with each, and drawn, so that those who meet part again."""
INTEGER = re.compile(rb"[+-]?[0-9]{1,19}")
LOW, HIGH = -(1 << 63), (1 << 63) - 1


class NotANumberError(FastKVError):
    """What is stored is not a whole number of 64 bits, or would not be one any more."""

    code = "NOT_A_NUMBER"


@click.command()
@click.argument("key")
@click.argument("revision", type=click.IntRange(min=0, max=(1 << 64) - 1))
@click.argument("value")
@endpoints_option
@timeout_option
@json_option
def cas(key: str, revision: int, value: str, endpoints: str, timeout_s: float, as_json: bool) -> None:
    """Compare and set: store VALUE only where KEY is at REVISION, 0 meaning that it must not exist.

    The revision is what `put` prints and what `get --json` names; "-" reads VALUE from standard input. Prints the
    revision of the write. Exit status: 0 stored, 1 the key is at another revision (the error names it) and nothing was
    changed, 4 not done, 5 not known whether it was done.

    \b
    Example:
      fastkv cas leader 0 node-a
      fastkv cas leader 17 node-b
    """
    name, data = argument_bytes(key), value_bytes(value)
    with reported(as_json=as_json), connect(endpoints, timeout=timeout_s, exactly_once=False) as kv:
        stored = kv.put(name, data, if_revision=revision)
    if as_json:
        say_json({**as_fields("key", name), "revision": stored})
    else:
        click.echo(f"revision {stored}")


@click.command()
@click.argument("key")
@click.option("--by", type=click.IntRange(LOW, HIGH), default=1, show_default=True, metavar="N",
              help="How much to add; may be negative.")  # fmt: skip
@endpoints_option
@timeout_option
@json_option
def incr(key: str, by: int, endpoints: str, timeout_s: float, as_json: bool) -> None:
    """Add to the whole number that is stored under KEY, as decimal text; a key that is not there counts as 0.

    Prints the number that was stored. It reads the key and writes it back on the condition that nobody has written
    meanwhile, until that succeeds: no increment is lost, whoever else increments. Exit status: 0 added once, 1 there is
    something else than a number, 4 not added, 5 not known whether it was added.

    \b
    Example:
      fastkv incr visits
      fastkv incr stock:7 --by -3
    """
    name = argument_bytes(key)
    with reported(as_json=as_json), connect(endpoints, timeout=timeout_s, exactly_once=False) as kv:
        number, revision = _add(kv, name, by, timeout_s)
    if as_json:
        say_json({**as_fields("key", name), "value": str(number), "number": number, "revision": revision})
    else:
        click.echo(str(number))


def _add(kv: Client, key: bytes, by: int, timeout_s: float) -> tuple[int, int]:
    """The number now stored, and its revision. Timeout, with nothing done, where others were always faster."""
    deadline = time.monotonic() + timeout_s
    pause_s = 0.001
    while True:
        item = kv.get(key, timeout=_left_s(deadline))
        number = _number(item) + by
        if not LOW <= number <= HIGH:
            raise NotANumberError(f"{shown(key)} plus {by} is {number}, which does not fit into 64 bits")
        try:
            return number, kv.put(key, str(number), if_revision=item.revision, timeout=_left_s(deadline))
        except PreconditionFailed:
            time.sleep(random.uniform(0, min(pause_s, _left_s(deadline))))
            pause_s = min(2 * pause_s, MAX_PAUSE_S)


def _left_s(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise Timeout("others changed the key between every read and write")
    return left_s


def _number(item: Item) -> int:
    if item.value is None:
        return 0
    if not INTEGER.fullmatch(item.value) or not LOW <= int(item.value) <= HIGH:
        found = shown(item.value[:64])
        raise NotANumberError(f"{shown(item.key)} holds {found!r}, which is no whole number of 64 bits")
    return int(item.value)
