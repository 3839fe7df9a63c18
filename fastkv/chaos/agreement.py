"""At the end of a run, with all faults gone: do the nodes agree, and is all there that was acknowledged?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastkv.chaos.clients import word_of
from fastkv.chaos.cluster import Cluster, ClusterError, eventually
from fastkv.client import AsyncClient
from fastkv.errors import FastKVError

AGREE_LIMIT_S = 60.0
SCAN_LIMIT_S = 30.0
SHOWN = 5

Content = dict[str, tuple[str | None, int]]
"""What a node holds: each key's value (the word that it was filled from) and revision."""


@dataclass
class Agreement:
    """What was found. The cluster agrees where `divergence` is empty."""

    leader: str = ""
    settled_s: float = 0.0
    """How long it took until one leader was known to all."""
    divergence: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """Acknowledged keys that are not there, or hold something else."""
    acknowledged: int = 0
    """Keys that were written once, and acknowledged."""
    keys: int = 0
    """In the end, on each node."""


async def agree(cluster: Cluster, acknowledged: Mapping[str, str]) -> Agreement:
    """Look at every node. `acknowledged` are the keys that were written once, with what they have to hold."""
    found = Agreement(acknowledged=len(acknowledged))
    began = time.monotonic()
    try:
        found.leader = await cluster.agreed_leader(within_s=AGREE_LIMIT_S)
        found.settled_s = time.monotonic() - began
        states = await _equal_indexes(cluster)
    except ClusterError as error:
        found.divergence.append(str(error))
        return found
    found.divergence += compare_states(states)
    contents: dict[str, Content] = {}
    for name, place in cluster.network.places.items():
        try:
            contents[name] = await _content(place.raft)
        except FastKVError as error:
            found.divergence.append(f"{name} cannot be read: {error}")
    found.divergence += compare_contents(contents)
    for name, content in contents.items():
        found.keys = len(content)
        found.lost += [f"{text} on {name}" for text in lost(acknowledged, content)]
    return found


async def _equal_indexes(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """`GET /health` of every node, once all have applied the same entries."""

    async def equal() -> dict[str, dict[str, Any]] | None:
        answers = await asyncio.gather(*(node.ask("/health") for node in cluster.nodes.values()))
        states = {name: answer for name, (_, answer) in zip(cluster.names, answers, strict=True)}
        indexes = {state.get("applied_index") for state in states.values()}
        return states if len(indexes) == 1 and None not in indexes else None

    what = "all nodes at the same entry"
    return await eventually(equal, within_s=AGREE_LIMIT_S, what=what, else_see=cluster.directory)


async def _content(endpoint: str) -> Content:
    """All that one node holds itself."""
    async with AsyncClient(endpoint, timeout=SCAN_LIMIT_S, follow_leader=False) as client:
        return {
            item.key.decode(): (word_of(item.text), item.revision)
            async for item in client.scan(consistency="stale")
        }


def compare_states(states: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What differs in what nodes at the same entry say of their states, and which say that something is wrong."""
    differing = []
    hashes = {name: state["state_hash"] for name, state in states.items()}
    if len(set(hashes.values())) > 1:
        at = next(iter(states.values()))["applied_index"]
        differing.append(f"at entry {at} the state hashes differ: " + ", ".join(f"{n} {h}" for n, h in hashes.items()))
    for name, state in states.items():
        if not state["checks"]["state"]:
            differing.append(f"{name} serves nothing: {'; '.join(state['problems'])}")
    return differing


def compare_contents(contents: Mapping[str, Content]) -> list[str]:
    """What differs between what nodes hold, a few keys of it."""
    differing = []
    first = next(iter(contents), "")
    for other in list(contents)[1:]:
        keys = contents[first].keys() | contents[other].keys()
        odd = sorted(key for key in keys if contents[first].get(key) != contents[other].get(key))
        if odd:
            shown = ", ".join(repr(key) for key in odd[:SHOWN])
            differing.append(f"{first} and {other} differ in {len(odd)} keys: {shown}")
    return differing


def lost(acknowledged: Mapping[str, str], content: Content) -> list[str]:
    """Acknowledged keys that are not there as they were written."""
    found = []
    for key, word in acknowledged.items():
        held = content.get(key)
        if held is None:
            found.append(f"{key!r} is not there")
        elif held[0] != word:
            found.append(f"{key!r} holds {held[0]!r}, not {word!r}")
    return found
