"""What each node of a cluster says of itself, over the raw-TCP port."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from fastkv.cli.local.probe import leader_of
from fastkv.client import AsyncClient
from fastkv.client.addresses import Address, parse_endpoints
from fastkv.errors import FastKVError, Unavailable

Answer = TypeVar("Answer")


def ask_each(
    endpoints: str, timeout_s: float, question: Callable[[AsyncClient], Awaitable[Answer]]
) -> dict[str, Answer | FastKVError]:
    """Every endpoint's own answer, or why there is none; asked side by side. Answers keep the endpoints' order."""

    return asyncio.run(_ask_all(parse_endpoints(endpoints), timeout_s, question))


async def _ask_all(
    addresses: Sequence[Address], timeout_s: float, question: Callable[[AsyncClient], Awaitable[Answer]]
) -> dict[str, Answer | FastKVError]:
    async def ask(address: Address) -> Answer | FastKVError:
        try:
            async with AsyncClient(str(address), timeout=timeout_s, follow_leader=False) as client:
                return await question(client)
        except FastKVError as error:
            return error

    answers = await asyncio.gather(*(ask(address) for address in addresses))
    return dict(zip(map(str, addresses), answers, strict=True))


async def ask_status_of(addresses: Sequence[Address], timeout_s: float) -> dict[str, dict[str, Any] | FastKVError]:
    """Each address's own status, or why there is none."""
    return await _ask_all(addresses, timeout_s, AsyncClient.status)


def ask_status(endpoints: str, timeout_s: float) -> dict[str, dict[str, Any] | FastKVError]:
    """Every endpoint's own status."""
    return ask_each(endpoints, timeout_s, AsyncClient.status)


def own_state(status: dict[str, Any]) -> tuple[str, int]:
    """State and term of the node that has answered.

    It knows no members while it waits to be added, and is none of them any more once it is removed.
    """
    own = status["nodes"].get(status["local_node_id"])
    return (own["state"], own["term"]) if own else ("Not a member", 0)


def leader_among(answers: Iterable[dict[str, Any] | FastKVError]) -> str | None:
    """Who leads, by what nodes say of themselves; where none of them does, by what they say of another."""
    statuses = [answer for answer in answers if not isinstance(answer, FastKVError)]
    named = (str(status["leader"]["id"]) for status in statuses if status["leader"])
    return leader_of(statuses) or next(named, None)


def leader_address(endpoints: str, timeout_s: float) -> Address:
    """Where the leader is. Unavailable where no node knows one."""
    answers = ask_status(endpoints, timeout_s)
    statuses = [answer for answer in answers.values() if not isinstance(answer, FastKVError)]
    for status in sorted(statuses, key=lambda status: not status["is_leader"]):
        if status["leader"]:
            return Address.parse(status["leader"]["address"])
    if statuses:
        raise Unavailable("the cluster has no leader")
    raise Unavailable("no node answers: " + "; ".join(f"{endpoint}: {why}" for endpoint, why in answers.items()))
