"""Which node a backup is taken from: of those that answer, a follower where one can, so that the leader is spared.

A node that cannot, or that goes away meanwhile, is passed over; the next one makes a snapshot of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from fastkv.cli.endpoints import ask_status_of
from fastkv.client.addresses import Address, parse_endpoints
from fastkv.client.backup import Download
from fastkv.client.settings import Settings
from fastkv.errors import FastKVError, NotDone, Timeout, Unavailable, WrongCluster
from fastkv.server import backups

CONNECT_TIMEOUT_S = 3.0


def fetch(
    endpoints: str,
    directory: Path,
    name: Callable[[Any], Path],
    cluster: str,
    stale: bool,
    timeout_s: float,
    on_progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Save a snapshot of one of the nodes to the file in `directory` that `name` says; a description of it.

    Unavailable where no node can make one; WrongCluster; and what `backups.take_in` raises.
    """
    settings = Settings(connect_timeout_s=CONNECT_TIMEOUT_S, cluster=cluster, follow_leader=False)
    failures: dict[str, FastKVError] = {}
    for address in uvloop.run(_in_order(parse_endpoints(endpoints))):
        try:
            download = uvloop.run(Download.open(address, settings, stale=stale, timeout_s=timeout_s))
        except (NotDone, WrongCluster) as error:
            failures[str(address)] = error
            continue
        try:
            return backups.take_in(download.offer, download.pieces, directory, name, on_progress)
        except (Unavailable, Timeout) as error:
            failures[str(address)] = error
        finally:
            download.close()
    if len(failures) == 1 or len({type(error) for error in failures.values()}) == 1:
        kind = type(next(iter(failures.values())))
    else:
        kind = Unavailable
    raise kind("no backup could be taken: " + "; ".join(f"{address}: {error}" for address, error in failures.items()))


async def _in_order(addresses: list[Address]) -> list[Address]:
    """Healthy followers, then healthy leaders, then the rest."""
    statuses = await ask_status_of(addresses, CONNECT_TIMEOUT_S)

    def rank(address: Address) -> int:
        status = statuses[str(address)]
        if isinstance(status, FastKVError):
            return 3
        return (1 if status["is_leader"] else 0) if status["health"]["status"] == "ok" else 2

    return sorted(addresses, key=rank)
