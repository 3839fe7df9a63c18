"""The clients of a run: each asks, waits for the answer, pauses, and asks again; all of it is recorded.

Two kinds of keys. Many clients use the same few *hot* keys at once, and other ones every few seconds, so that the
history of each is short enough to be searched. And each client writes keys *once*, of its own: those that were
acknowledged have to be there in the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from fastkv.chaos.cluster import Cluster
from fastkv.chaos.doors import Door, LibraryDoor, Read, WebDoor
from fastkv.chaos.history import Recorder
from fastkv.chaos.modes import Crowd
from fastkv.client.results import ConsistencyName
from fastkv.errors import FastKVError, NotDone, PreconditionFailed

HOT_KEYS = 6
HOT_FOR_S = 4.0
ONCE_KEYS = 20_000
"""Keys that are written once, in a whole run, spread over its time: so that an hour's run does not grow for ever."""
ONCE_AT_FIRST = 500
ONCE_BYTES = (16, 512)
"""They stay, and whether the disk grows is judged: so they are small in every mode."""
MOST_OPERATIONS = 1_000_000
"""In a whole run, about: in a longer one clients pause longer, so that its history can be kept and searched."""
OPERATIONS = {"get": 38, "once": 20, "put": 20, "cas": 16, "del": 6}
"""How often each, of a hundred."""


def filled(word: str) -> str:
    """A value that begins with the word, which says how long it is, and makes it another one than all others."""
    return f"{word} ".ljust(int(word.rpartition(":")[2]), "x")


def word_of(value: str | None) -> str | None:
    """What `value` was filled from: so much of it is recorded. One that was damaged is no other value's."""
    if value is None:
        return None
    word = value.partition(" ")[0]
    try:
        return word if filled(word) == value else f"damaged: {value}"
    except ValueError:
        return f"damaged: {value}"


class Sample(NamedTuple):
    """One operation as its client saw it; times by `time.monotonic`."""

    kind: str
    f: str
    began: float
    ended: float
    outcome: str
    """ok, failed or unknown. A cas that found another revision has its answer: that is ok."""


class Load:
    """All clients of a run."""

    def __init__(self, cluster: Cluster, crowd: Crowd, recorder: Recorder, *, seed: int, seconds: float) -> None:
        self._crowd = crowd
        self._recorder = recorder
        self._seconds = seconds
        self._began = time.monotonic()
        self._busy: Counter[str] = Counter()
        self._seen: dict[str, int] = {}
        self._once_begun = 0
        self._stopping = False
        clients = crowd.everywhere + crowd.settled * len(cluster.names) + crowd.http
        self._pause_s = max(crowd.pause_s, clients * seconds / MOST_OPERATIONS)
        self._tasks: list[asyncio.Task[None]] = []
        self.samples: list[Sample] = []
        self.outcomes: Counter[str] = Counter()
        self.once: dict[str, str] = {}
        """Keys that are written once, and the values that were acknowledged."""
        self.hot: set[str] = set()
        """All hot keys so far."""
        self.overlapping = 0
        """Operations that began while another one was under way on the same key."""
        self._doors = list(_doors(cluster, crowd, seed))

    def start(self) -> None:
        """Let the clients begin."""
        self._began = time.monotonic()
        for number, (door, rng) in enumerate(self._doors):
            self._tasks.append(asyncio.create_task(self._live(f"{door.kind}-{number}", door, rng)))

    async def stop(self) -> None:
        """Let each client end what it has begun. A client that failed otherwise than by an answer raises here."""
        self._stopping = True
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        for door, _ in self._doors:
            await door.close()
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def look(self) -> None:
        """Raise what ended a client, if anything has."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def abort(self) -> None:
        """Stop at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for door, _ in self._doors:
            with contextlib.suppress(FastKVError):
                await door.close()

    async def read_back(self, endpoints: str) -> None:
        """Read every hot key, for the history: what was acknowledged and is gone shows there."""
        door = LibraryDoor("last", endpoints, None)
        client = "last"
        try:
            for key in sorted(self.hot):
                client = await self._get(client, door, key, "linearizable")
        finally:
            await door.close()

    # -- a client's life -----------------------------------------------------------------------------------------------

    async def _live(self, client: str, door: Door, rng: random.Random) -> None:
        own = 0
        while not self._stopping:
            f = rng.choices(list(OPERATIONS), list(OPERATIONS.values()))[0]
            now = time.monotonic() - self._began
            if f == "once" and self._once_begun >= ONCE_AT_FIRST + ONCE_KEYS * now / self._seconds:
                f = "put"
            own += 1
            word = f"{client}:{own}:{rng.randint(*(ONCE_BYTES if f == 'once' else self._crowd.value_bytes))}"
            if f == "once":
                self._once_begun += 1
                client = await self._put(client, door, f"once/{client}/{own}", word, None)
            else:
                key = f"hot/{int(now / HOT_FOR_S)}/{rng.randrange(HOT_KEYS)}"
                client = await self._hot(client, door, f, key, word, rng)
            await asyncio.sleep(rng.uniform(0, 2 * self._pause_s))

    async def _hot(self, client: str, door: Door, f: str, key: str, word: str, rng: random.Random) -> str:
        self.hot.add(key)
        self.overlapping += self._busy[key] > 0
        self._busy[key] += 1
        try:
            if f == "get":
                return await self._get(client, door, key, "lease" if rng.random() < 0.3 else "linearizable")
            if f == "del":
                return await self._delete(client, door, key)
            return await self._put(client, door, key, word, self._seen.get(key, 0) if f == "cas" else None)
        finally:
            self._busy[key] -= 1

    # -- operations, recorded; each returns the name under which the client goes on ------------------------------------

    async def _get(self, client: str, door: Door, key: str, consistency: ConsistencyName) -> str:
        op = self._recorder.invoke(client, "get", key, node=door.node)

        async def ask() -> None:
            read: Read = await door.get(key, consistency)
            self._seen[key] = read.revision
            self._recorder.ok(op, word_of(read.value), rev=read.revision, node=door.node)

        return await self._recorded(client, door, "get", op, ask)

    async def _put(self, client: str, door: Door, key: str, word: str, expected: int | None) -> str:
        f = "put" if expected is None else "cas"
        op = self._recorder.invoke(client, f, key, word if expected is None else [expected, word], node=door.node)

        async def ask() -> None:
            try:
                revision, done = await door.put(key, filled(word), expected), True
            except PreconditionFailed as refused:
                if expected is None:
                    raise
                revision, done = refused.revision, False
            self._seen[key] = revision
            self._recorder.ok(op, done, rev=revision, node=door.node)
            if key.startswith("once/"):
                self.once[key] = word

        return await self._recorded(client, door, f, op, ask)

    async def _delete(self, client: str, door: Door, key: str) -> str:
        op = self._recorder.invoke(client, "del", key, node=door.node)

        async def ask() -> None:
            revision = await door.delete(key)
            self._seen[key] = 0
            if revision is None:
                self._recorder.ok(op, False, rev=0, node=door.node)
            else:
                self._recorder.ok(op, True, rev=None if revision < 0 else revision, node=door.node)

        return await self._recorded(client, door, "del", op, ask)

    async def _recorded(self, client: str, door: Door, f: str, op: int, ask: Callable[[], Awaitable[None]]) -> str:
        began, outcome = time.monotonic(), "ok"
        try:
            await ask()
        except FastKVError as error:
            if isinstance(error, NotDone) or f == "get":
                self._recorder.fail(op)
                outcome = "failed"
            else:
                client, outcome = self._recorder.info(op), "unknown"
        self.outcomes[outcome] += 1
        self.samples.append(Sample(door.kind, f, began, time.monotonic(), outcome))
        return client


def _doors(cluster: Cluster, crowd: Crowd, seed: int) -> list[tuple[Door, random.Random]]:
    """A door for each client, and what it draws from."""
    places = cluster.network.places
    doors: list[Door] = [LibraryDoor("all", cluster.endpoints, None) for _ in range(crowd.everywhere)]
    doors += [LibraryDoor(name, places[name].raft, name) for name in places for _ in range(crowd.settled)]
    addresses = [place.http for place in places.values()]
    doors += [WebDoor(addresses, random.Random(f"web {seed} {number}")) for number in range(crowd.http)]
    return [(door, random.Random(f"client {seed} {number}")) for number, door in enumerate(doors)]
