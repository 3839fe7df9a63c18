"""What each node of a cluster says of itself, over the raw-TCP port."""

from __future__ import annotations

import asyncio
from typing import Any

from fastkv.client import AsyncClient
from fastkv.client.addresses import Address, parse_endpoints
from fastkv.errors import FastKVError, Unavailable

Answer = dict[str, Any] | str
"""A node's status, or why there is none."""


def ask_each(endpoints: str, timeout_s: float) -> dict[str, Answer]:
    """Every endpoint's own status, asked side by side."""

    async def ask(address: Address) -> Answer:
        try:
            async with AsyncClient(str(address), timeout=timeout_s, follow_leader=False) as client:
                return await client.status()
        except FastKVError as error:
            return str(error)

    async def ask_all() -> dict[str, Answer]:
        addresses = parse_endpoints(endpoints)
        answers = await asyncio.gather(*(ask(address) for address in addresses))
        return dict(zip(map(str, addresses), answers, strict=True))

    return asyncio.run(ask_all())


def leader_address(endpoints: str, timeout_s: float) -> Address:
    """Where the leader is. Unavailable where no node knows one."""
    answers = ask_each(endpoints, timeout_s)
    statuses = [answer for answer in answers.values() if not isinstance(answer, str)]
    for status in sorted(statuses, key=lambda status: not status["is_leader"]):
        if status["leader"]:
            return Address.parse(status["leader"]["address"])
    if statuses:
        raise Unavailable("the cluster has no leader")
    raise Unavailable("no node answers: " + "; ".join(f"{endpoint}: {why}" for endpoint, why in answers.items()))
