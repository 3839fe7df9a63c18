"""`fastkv get`, `mget`, `put`, `del` and `scan`."""

from __future__ import annotations

import asyncio
import sys

import click

from fastkv.cli.options import consistency_option, endpoints_option, json_option, timeout_option
from fastkv.cli.output import Exit, argument_bytes, as_fields, fail, reported, say_json, shown
from fastkv.client import AsyncClient, Item, connect
from fastkv.client.results import ConsistencyName

if_revision_option = click.option(
    "--if-revision",
    type=click.IntRange(min=0, max=(1 << 64) - 1),
    help="Only where the key is at this revision; 0: where it does not exist.",
)


@click.command()
@click.argument("key")
@consistency_option
@click.option("--raw", is_flag=True, help="The value's bytes and nothing else: no newline, nothing escaped.")
@endpoints_option
@timeout_option
@json_option
def get(key: str, consistency: ConsistencyName, raw: bool, endpoints: str, timeout_s: float, as_json: bool) -> None:
    """Print the value of KEY; exit status 3 where there is none.

    \b
    Example:
      fastkv get user:john
      fastkv get logo --raw > logo.png
    """
    if raw and as_json:
        raise click.UsageError("--raw and --json contradict each other")
    with reported(as_json=as_json), connect(endpoints, timeout=timeout_s) as kv:
        item = kv.get(argument_bytes(key), consistency=consistency)
    if item.value is None:
        _not_found(key, as_json)
    elif as_json:
        say_json(_as_json(item))
    elif raw:
        sys.stdout.buffer.write(item.value)
    else:
        click.echo(item.value.decode(errors="backslashreplace"))


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@consistency_option
@endpoints_option
@timeout_option
@json_option
def mget(keys: tuple[str, ...], consistency: ConsistencyName, endpoints: str, timeout_s: float, as_json: bool) -> None:
    """Print the values of several keys; exit status 3 where any of them is missing.

    One line each, in the order given: the key, a tab, the value, with what is not printable escaped. Missing keys are
    named on standard error. With --json one object a line; that of a missing key has "value": null. Each key is read by
    itself: together they are no snapshot, unlike what scan prints.

    \b
    Example:
      fastkv mget user:john user:mary
      fastkv mget a b c --json
    """

    async def read() -> list[Item]:
        async with AsyncClient(endpoints, timeout=timeout_s) as kv:
            return await asyncio.gather(*(kv.get(argument_bytes(key), consistency=consistency) for key in keys))

    with reported(as_json=as_json):
        items = asyncio.run(read())
    for item in items:
        if as_json:
            say_json(_as_json(item) if item.exists else {**as_fields("key", item.key), "value": None})
        elif item.value is not None:
            click.echo(f"{shown(item.key)}\t{shown(item.value)}")
        else:
            click.echo(f"key not found: {shown(item.key)}", err=True)
    sys.exit(Exit.DONE if all(item.exists for item in items) else Exit.NOT_FOUND)


@click.command()
@click.argument("key")
@click.argument("value")
@if_revision_option
@endpoints_option
@timeout_option
@json_option
def put(key: str, value: str, if_revision: int | None, endpoints: str, timeout_s: float, as_json: bool) -> None:
    """Store VALUE under KEY; "-" reads it from standard input. Prints the revision of the write.

    \b
    Example:
      fastkv put user:john "John Doe"
      fastkv put logo - < logo.png
      fastkv put lock me --if-revision 0
    """
    data = value_bytes(value)
    with reported(as_json=as_json), connect(endpoints, timeout=timeout_s, exactly_once=False) as kv:
        revision = kv.put(argument_bytes(key), data, if_revision=if_revision)
    if as_json:
        say_json({**as_fields("key", argument_bytes(key)), "revision": revision})
    else:
        click.echo(f"revision {revision}")


@click.command(name="del")
@click.argument("key")
@if_revision_option
@endpoints_option
@timeout_option
@json_option
def delete(key: str, if_revision: int | None, endpoints: str, timeout_s: float, as_json: bool) -> None:
    """Delete KEY; exit status 3 where there is none.

    \b
    Example:
      fastkv del user:john
    """
    with reported(as_json=as_json), connect(endpoints, timeout=timeout_s, exactly_once=False) as kv:
        existed = kv.delete(argument_bytes(key), if_revision=if_revision)
    if not existed:
        _not_found(key, as_json)
    elif as_json:
        say_json({**as_fields("key", argument_bytes(key)), "deleted": True})
    else:
        click.echo("deleted")


@click.command()
@click.argument("prefix", required=False)
@click.option("--start", help="The first key.")
@click.option("--end", help="The key before which to stop.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many keys.")
@click.option("--reverse", is_flag=True, help="From the last key to the first.")
@click.option("--keys-only", is_flag=True, help="No values.")
@consistency_option
@endpoints_option
@timeout_option
@json_option
def scan(
    prefix: str | None,
    start: str | None,
    end: str | None,
    limit: int | None,
    reverse: bool,
    keys_only: bool,
    consistency: ConsistencyName,
    endpoints: str,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Print keys and values in the keys' order, of one consistent snapshot.

    One line each: the key, a tab, the value, with what is not printable escaped. With --json one object a line.

    \b
    Example:
      fastkv scan user:
      fastkv scan --start a --end b --limit 10 --reverse
    """
    if prefix is not None and (start is not None or end is not None):
        raise click.UsageError("give PREFIX, or --start and --end")
    with reported(as_json=as_json), connect(endpoints, timeout=timeout_s) as kv:
        for item in kv.scan(
            prefix=None if prefix is None else argument_bytes(prefix),
            start=None if start is None else argument_bytes(start),
            end=None if end is None else argument_bytes(end),
            limit=limit,
            reverse=reverse,
            keys_only=keys_only,
            consistency=consistency,
        ):
            if as_json:
                say_json(_as_json(item))
            elif item.value is None:
                click.echo(shown(item.key))
            else:
                click.echo(f"{shown(item.key)}\t{shown(item.value)}")


def value_bytes(argument: str) -> bytes:
    """The value that an argument stands for: its own bytes, or, for "-", those of standard input."""
    return sys.stdin.buffer.read() if argument == "-" else argument_bytes(argument)


def _as_json(item: Item) -> dict[str, object]:
    value = {} if item.value is None else as_fields("value", item.value)
    numbers = {"revision": item.revision, "version": item.version, "create_revision": item.create_revision}
    stale = {} if item.applied_index is None else {"applied_index": item.applied_index, "age_ms": item.age_ms}
    return {**as_fields("key", item.key), **value, **numbers, **stale}


def _not_found(key: str, as_json: bool) -> None:
    data = argument_bytes(key)
    fail(f"key not found: {shown(data)}", "KEY_NOT_FOUND", Exit.NOT_FOUND, as_json=as_json, **as_fields("key", data))
