"""A network in which each node has a network stack of its own (a namespace of Linux), and real packets are dropped.

Needs root. The run moves into a namespace, too, a new one with nothing in it but a bridge; each node's is joined to it
by a pair of virtual devices. A namespace has no name, and is there as long as a process is in it: one that waits for
the run to end. So nothing is left behind, however the run ends, and no two runs can meet.

What goes from one node to another is dropped by rules of nftables where it arrives; what goes to clients, where it
leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Sequence

from fastkv.chaos.links import CLIENT, PASS, Rule
from fastkv.chaos.network import LOSS, MissingError, Place

CLONE_NEWNET = 0x40000000
BRIDGE = "hub"
CLIENTS_ADDRESS = "10.0.0.1"
RAFT_PORT, HTTP_PORT = 9001, 8081
TOOLS = {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux", "unshare": "util-linux"}
"""The commands that this needs, and the packages of Debian that they are in."""
HOLDER = ("unshare", "--net", "--", "sh", "-c", "echo; exec cat")
"""Keeps a namespace: says that it is there, and ends when its input does."""
TABLE = """
table inet chaos {
    chain input { type filter hook input priority 0; policy accept; }
    chain output { type filter hook output priority 0; policy accept; }
}
"""


def check() -> None:
    """MissingError where this machine or this user cannot do it."""
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if missing:
        raise MissingError(
            f"--network namespaces needs {' and '.join(missing)}: sudo apt-get install {' '.join(missing)}"
        )
    if os.geteuid() != 0:
        raise MissingError("--network namespaces needs root: start it with sudo, or take --network proxies")


def enter() -> None:
    """Move this process, and all that it starts from now on, into a new, empty network. MissingError where refused."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise MissingError(
            f"no network namespace can be made here ({reason}): a container needs --privileged; or take proxies"
        )
    _run("ip", "link", "set", "lo", "up")


class Namespaces:
    """A network of namespaces. The process has to be in one of its own: see `enter`."""

    abilities = frozenset({LOSS})

    def __init__(self, names: Sequence[str]) -> None:
        self.places = {
            name: Place(f"10.0.0.{10 + number}", RAFT_PORT, HTTP_PORT, RAFT_PORT) for number, name in enumerate(names)
        }
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        self._ruled: set[str] = set()
        self._dropped = 0

    async def start(self) -> None:
        """Make the bridge, the namespaces and the devices. MissingError where that is refused."""
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        _run("ip", "addr", "add", f"{CLIENTS_ADDRESS}/24", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        for number, (name, place) in enumerate(self.places.items()):
            holder = self._holders[name] = _hold()
            device = f"node{number}"
            _run("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
            _run("ip", "link", "set", device, "master", BRIDGE, "up")
            for command in (f"addr add {place.host}/24 dev eth0", "link set lo up", "link set eth0 up"):
                _run(*self.command(name, ("ip", *command.split())))
            _run(*self.command(name, ("nft", "-f", "-")), text=TABLE)

    async def close(self) -> None:
        """Remove the devices, and end what keeps the namespaces, which the kernel then removes in its own time."""
        for device in (*(f"node{number}" for number in range(len(self._holders))), BRIDGE):
            with contextlib.suppress(MissingError):     # it was never made where `start` failed
                _run("ip", "link", "del", device)
        for holder in self._holders.values():
            for pipe in (holder.stdin, holder.stdout):
                if pipe is not None:
                    pipe.close()
            holder.wait()
        self._holders.clear()

    def command(self, node: str, command: Sequence[str]) -> list[str]:
        """Run it in the node's namespace."""
        return ["nsenter", f"--net=/proc/{self._holders[node].pid}/ns/net", "--", *command]

    async def set(self, rules: dict[tuple[str, str], Rule]) -> None:
        """See `network.Network.set`. Delays are no ability of this network."""
        lines: dict[str, list[str]] = {name: [] for name in self.places}
        for (source, target), rule in rules.items():
            if rule != PASS:
                node, text = self._line(source, target, rule)
                lines[node].append(text)
        ruled = {node for node, texts in lines.items() if texts}
        await asyncio.gather(*(self._load(node, lines[node]) for node in ruled | self._ruled))
        self._ruled = ruled

    def _line(self, source: str, target: str, rule: Rule) -> tuple[str, str]:
        """Whose rules it belongs to, and the rule."""
        part = "" if rule.blocked else f"numgen random mod 1000 < {round(rule.loss * 1000)} "
        if target == CLIENT:
            return source, f"add rule inet chaos output ip daddr {CLIENTS_ADDRESS} {part}counter drop"
        address = CLIENTS_ADDRESS if source == CLIENT else self.places[source].host
        return target, f"add rule inet chaos input ip saddr {address} {part}counter drop"

    async def _load(self, node: str, lines: list[str]) -> None:
        dropped = await self._counted(node)
        self._dropped += dropped        # not in one line: others of these are under way, and would be forgotten
        await self._nft(node, "; ".join(("flush table inet chaos", *lines)))

    async def _nft(self, node: str, *arguments: str) -> bytes:
        process = await asyncio.create_subprocess_exec(
            *self.command(node, ("nft", *arguments)),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, error = await process.communicate()
        if process.returncode != 0:
            raise MissingError(f"nft failed: {error.decode().strip().splitlines()[0]}")
        return out

    async def _counted(self, node: str) -> int:
        """Packets that this node's rules have dropped since they were made."""
        listed = json.loads(await self._nft(node, "-j", "list table inet chaos"))["nftables"]
        parts = [part for item in listed if "rule" in item for part in item["rule"]["expr"]]
        return sum(int(part["counter"]["packets"]) for part in parts if "counter" in part)

    async def withheld(self) -> int:
        """Packets."""
        return self._dropped + sum(await asyncio.gather(*(self._counted(node) for node in self._ruled)))

    async def deaden(self, one: str, other: str) -> int:
        """No ability of this network."""
        raise NotImplementedError

    async def revive(self) -> None:
        """Nothing is ever half-open here."""


def _hold() -> subprocess.Popen[bytes]:
    """A process in a namespace of its own."""
    holder = subprocess.Popen(HOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    return holder


def _run(*command: str, text: str = "") -> None:
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip() or f"status {done.returncode}"
        raise MissingError(f"`{' '.join(command)}` failed: {reason.splitlines()[0]}")
