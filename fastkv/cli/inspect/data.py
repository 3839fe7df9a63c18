"""`fastkv inspect data`: every stored pair, from each node, and whether the nodes agree."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import click

from fastkv.cli.inspect.show import looked, shortened, table, text_of, watch_option
from fastkv.cli.options import endpoints_option, json_option, timeout_option
from fastkv.cli.output import Exit, argument_bytes, as_fields, reported, say_json

if TYPE_CHECKING:
    from fastkv.cli.inspect.comparison import Pair

DIFFERENCES_SHOWN = 1000


@click.command()
@click.option("--prefix", default="", help="Only keys that begin so.")
@click.option(
    "--limit", type=click.IntRange(min=0), default=100, show_default=True,
    help="Show so many pairs. All are compared, and what differs is always shown.",
)  # fmt: skip
@endpoints_option
@timeout_option
@watch_option
@json_option
def data(prefix: str, limit: int, endpoints: str, timeout_s: float, every_s: float | None, as_json: bool) -> None:
    """Show what each node has stored, and whether the nodes agree.

    Each node answers from its own store. A node may be behind while the cluster is written to; that is no difference.
    Exit status 0 where they agree, 1 where they do not, 4 where a node cannot be read.

    \b
    Example:
      fastkv inspect data
      fastkv inspect data --prefix user: --limit 1000
    """

    def look() -> Exit:
        with reported(as_json=as_json):
            view = asyncio.run(_walk(endpoints, timeout_s, argument_bytes(prefix), limit))
        if as_json:
            say_json(view)
        else:
            _show(view)
        return Exit.DONE if view["agree"] else Exit.FAILED

    looked(look, every_s)


async def _walk(endpoints: str, timeout_s: float, prefix: bytes, limit: int) -> dict[str, Any]:
    from fastkv.cli.inspect.comparison import Agreement, Comparison, compare
    from fastkv.client import AsyncClient
    from fastkv.client.addresses import parse_endpoints

    result = Comparison()
    pairs = []
    async with AsyncExitStack() as stack:
        clients = {}
        for address in parse_endpoints(endpoints):
            client = AsyncClient(str(address), timeout=timeout_s, follow_leader=False)
            clients[str(address)] = await stack.enter_async_context(client)
        differences = total = 0
        async for pair in compare(clients, prefix, result):
            total += 1
            differs = pair.agreement is Agreement.DIFFERENT and differences < DIFFERENCES_SHOWN
            differences += differs
            if total <= limit or differs:
                pairs.append(_described(pair))
    return {
        "agree": not result.different,
        "keys": total,
        "behind": result.behind,
        "different": result.different,
        "nodes": {name: {"revision": result.revisions[name], "keys": result.keys[name]} for name in clients},
        "pairs": pairs,
    }


def _described(pair: Pair) -> dict[str, Any]:
    """A pair in plain values: what the first node has that has it, and who has something else."""
    having = {name: item for name, item in pair.items.items() if item is not None}
    first = next(iter(having.values()))
    described: dict[str, Any] = {
        **as_fields("key", pair.key),
        **as_fields("value", first.value or b""),
        "revision": first.revision,
        "version": first.version,
        "agreement": pair.agreement.value,
    }
    others = {
        name: None if item is None else {"revision": item.revision, **as_fields("value", item.value or b"")}
        for name, item in pair.items.items()
        if item != first
    }
    if others:
        described["elsewhere"] = others
    return described


def _show(view: dict[str, Any]) -> None:
    rows = []
    for pair in view["pairs"]:
        style = {"different": "red", "behind": "yellow"}.get(pair["agreement"])
        rows.append(([text_of(pair, "key"), shortened(text_of(pair, "value")), f"{pair['revision']:,}",
                      pair["agreement"]], style))
        for name, item in pair.get("elsewhere", {}).items():
            there = "(not there)" if item is None else shortened(text_of(item, "value"))
            rows.append((["", there, "" if item is None else f"{item['revision']:,}", f"on {name}"], style))
    table(("key", "value", "revision", "nodes"), rows)
    if view["keys"] > len(view["pairs"]):
        click.echo(f"… {view['keys'] - len(view['pairs']):,} more; --limit shows more of them")
    for name, node in view["nodes"].items():
        click.echo(f"{name}: {node['keys']:,} keys at revision {node['revision']:,}")
    if view["different"]:
        click.echo(f"the nodes DIFFER in {view['different']:,} keys")
    elif view["behind"]:
        click.echo(f"the nodes agree; {view['behind']:,} keys have not reached all of them yet")
    else:
        click.echo("the nodes agree")
