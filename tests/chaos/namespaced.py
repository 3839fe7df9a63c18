"""What `test_namespaces` runs in a process of its own, which leaves the machine's network for an empty one.

`python -m tests.chaos.namespaced DIRECTORY` prints, as JSON, who heard whom under which rules.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

from fastkv.chaos.links import CLIENT, Rule
from fastkv.chaos.namespaces import Namespaces, enter

NAMES = ["a", "b", "c"]
PORT = 7000
LIMIT_S = 30.0
LOSSY = 40
BLOCKED = Rule(blocked=True)

LISTEN = """
import socket, sys
heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
heard.bind((sys.argv[1], int(sys.argv[2])))
with open(sys.argv[3], "ab", buffering=0) as file:
    file.write(b"up ")
    while True:
        file.write(heard.recv(100) + b" ")
"""
SAY = """
import socket, sys
say = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for host, word in zip(sys.argv[2::2], sys.argv[3::2]):
    try:
        say.sendto(word.encode(), (host, int(sys.argv[1])))
    except PermissionError:
        pass    # dropped where it leaves: the kernel says so to who sends a datagram
"""
GRACE_S = 0.2
"""What is said earlier by another way might, on another processor, arrive a little later."""


class Listeners:
    """Somebody in each namespace, and here, who writes down what arrives."""

    def __init__(self, network: Namespaces, directory: Path) -> None:
        self._network = network
        self._directory = directory
        self._said = 0
        self.hosts = {CLIENT: "10.0.0.1", **{name: place.host for name, place in network.places.items()}}
        self.processes = [
            subprocess.Popen(self._command(name, LISTEN, self.hosts[name], str(PORT), str(self._file(name))))
            for name in self.hosts
        ]
        self._until_all_have("up")

    def _command(self, name: str, script: str, *arguments: str) -> list[str]:
        command = [sys.executable, "-c", script, *arguments]
        return command if name == CLIENT else self._network.command(name, command)

    def _file(self, name: str) -> Path:
        return self._directory / (name or "client")

    def words(self, name: str) -> list[str]:
        """What has arrived there."""
        return self._file(name).read_text().split() if self._file(name).exists() else []

    def _until_all_have(self, word: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not all(word in self.words(name) for name in self.hosts):
            assert time.monotonic() < deadline, f"somebody never heard {word}"
            time.sleep(0.01)

    def say(self, source: str, *words: tuple[str, str]) -> None:
        """Say words to others, (who, word)."""
        pairs = [part for target, word in words for part in (self.hosts[target], word)]
        subprocess.run(self._command(source, SAY, str(PORT), *pairs), check=True)

    def deaf(self) -> list[str]:
        """Who does not hear whom, as "who speaks>who is to hear"."""
        self._said += 1
        pairs = [(s, t) for s in self.hosts for t in self.hosts if s != t]
        for source in self.hosts:
            self.say(source, *((t, f"{source}>{t}{self._said}") for s, t in pairs if s == source))
        for name in self.hosts:
            self.say(name, (name, f"last{self._said}"))
        self._until_all_have(f"last{self._said}")
        time.sleep(GRACE_S)
        return [f"{s or 'client'}>{t or 'client'}" for s, t in pairs if f"{s}>{t}{self._said}" not in self.words(t)]

    def close(self) -> None:
        """Nobody listens any more."""
        for process in self.processes:
            process.kill()
            process.wait()


async def run(directory: Path) -> dict[str, object]:
    """Every rule in turn."""
    network = Namespaces(NAMES)
    await network.start()
    listeners = Listeners(network, directory)
    try:
        found = await under_rules(network, listeners)
    finally:
        listeners.close()
        await network.close()
    return {**found, "devices left": devices()}


def devices() -> list[str]:
    """All that this process's network has."""
    listed = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    return [line.split()[1] for line in listed.splitlines()]


async def under_rules(network: Namespaces, listeners: Listeners) -> dict[str, object]:
    """Who is deaf to whom."""
    found: dict[str, object] = {"free": listeners.deaf()}
    await network.set({("a", "b"): BLOCKED})
    found["one way"] = listeners.deaf()
    found["withheld"] = await network.withheld()
    await network.set({("c", CLIENT): BLOCKED, (CLIENT, "c"): BLOCKED})
    found["clients"] = listeners.deaf()
    await network.set({("a", "b"): Rule(loss=0.5)})
    listeners.say("a", *(("b", f"lossy{number}") for number in range(LOSSY)))
    await network.set({})
    found["healed"] = listeners.deaf()
    found["withheld in all"] = await network.withheld()
    found["lossy"] = LOSSY - sum(word.startswith("lossy") for word in listeners.words("b"))
    return found


if __name__ == "__main__":
    enter()
    print(json.dumps(asyncio.run(run(Path(sys.argv[1])))))
