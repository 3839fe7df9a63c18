"""What nodes say of themselves over HTTP, and when a cluster counts as up."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastkv.config import HostPort

PROBE_TIMEOUT_S = 1.0
PROBE_INTERVAL_S = 0.1
"""How often a cluster that is starting is asked, where nothing else happens; there is no event across processes."""

Status = dict[str, Any]
"""What `GET /cluster/status` answers."""


def fetch_status(address: HostPort, timeout_s: float = PROBE_TIMEOUT_S) -> Status | None:
    """One node's view of the cluster; None while it does not answer."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    try:
        connection.request("GET", "/cluster/status")
        response = connection.getresponse()
        status = json.loads(response.read()) if response.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return status if isinstance(status, dict) else None


def fetch_all(addresses: Mapping[str, HostPort]) -> dict[str, Status | None]:
    """Every node's view, asked side by side, so that one that hangs costs one timeout and no more."""
    if not addresses:
        return {}
    with ThreadPoolExecutor(len(addresses)) as pool:
        return dict(zip(addresses, pool.map(fetch_status, addresses.values()), strict=True))


def leader_of(statuses: Iterable[Status | None]) -> str | None:
    """Who leads: the node that says so of itself; of two, the one of the later term."""
    claims = []
    for status in statuses:
        own = status["local_node_id"] if status and status.get("is_leader") else None
        if status and own in status["nodes"]:       # a leader that was removed is not among them any more
            claims.append((status["nodes"][own]["term"], own))
    return str(max(claims)[1]) if claims else None


def agreed_leader(statuses: Mapping[str, Status | None]) -> str | None:
    """The leader, once every node answers and knows it: then any of them takes any request at once."""
    leader = leader_of(statuses.values())
    knows = all(status and status["nodes"].get(leader, {}).get("is_leader") for status in statuses.values())
    return leader if leader is not None and knows else None
