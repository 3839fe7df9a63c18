"""`fastkv inspect test`: put, get and delete across the nodes, with a verdict."""

from __future__ import annotations

import asyncio
import secrets
import sys
from typing import Any

import click

from fastkv.cli.inspect.show import table
from fastkv.cli.options import endpoints_option, json_option, timeout_option
from fastkv.cli.output import Exit, reported, say_json
from fastkv.errors import FastKVError

PREFIX = "fastkv-inspect-test/"


@click.command(name="test")
@endpoints_option
@timeout_option
@json_option
def trial(endpoints: str, timeout_s: float, as_json: bool) -> None:
    """Write through each node, read it on every node, delete it again.

    The keys begin with "fastkv-inspect-test/" and are gone afterwards. Exit status 0 where every step did what it
    must, 1 otherwise.

    \b
    Example:
      fastkv inspect test
    """
    with reported(as_json=as_json):
        steps = asyncio.run(_walk(endpoints, timeout_s))
    passed = all(step["passed"] for step in steps)
    if as_json:
        say_json({"passed": passed, "steps": steps})
    else:
        rows = [
            ([step["step"], step["node"], "passed" if step["passed"] else "FAILED", step["found"]],
             "green" if step["passed"] else "red")
            for step in steps
        ]
        table(("step", "on", "", "found"), rows)
        click.echo("every node takes writes and sees them at once" if passed else "NOT every node works as it must")
    sys.exit(Exit.DONE if passed else Exit.FAILED)


async def _walk(endpoints: str, timeout_s: float) -> list[dict[str, Any]]:
    """A put through each node, and what every node reads then; a delete, and what every node reads then."""
    from fastkv.client import AsyncClient
    from fastkv.client.addresses import parse_endpoints

    clients = {
        str(address): AsyncClient(str(address), timeout=timeout_s, follow_leader=False)
        for address in parse_endpoints(endpoints)
    }
    steps: list[dict[str, Any]] = []

    async def step(name: str, node: str, doing: Any, expected: object) -> None:
        try:
            found = await doing
        except FastKVError as error:
            found = error
        right = found == expected or (expected is ... and not isinstance(found, FastKVError))
        steps.append({"step": name, "node": node, "passed": right, "found": "" if right else str(found)})

    try:
        for writer, client in clients.items():
            key, value = f"{PREFIX}{secrets.token_hex(8)}", secrets.token_hex(8)
            await step("put", writer, client.put(key, value), ...)
            for reader, other in clients.items():
                await step(f"get what was put on {writer}", reader, _read(other, key), value)
            await step("delete", writer, client.delete(key), True)
            for reader, other in clients.items():
                await step(f"see it gone after {writer}", reader, _read(other, key), None)
    finally:
        await asyncio.gather(*(client.close() for client in clients.values()))
    return steps


async def _read(client: Any, key: str) -> str | None:
    text: str | None = (await client.get(key)).text
    return text
