"""Clients that write without pause, and notice how long the whole cluster acknowledges nothing."""

from __future__ import annotations

import asyncio
import time

import fastkv


class Writers:
    """Tasks that put without pause, and what they saw."""

    def __init__(self, client: fastkv.AsyncClient, count: int) -> None:
        self.acknowledged = 0
        self.failures: list[str] = []
        self._newest = time.monotonic()
        self._longest = 0.0
        self._ended = False
        self._client = client
        self._tasks = [asyncio.create_task(self._write(f"writer-{number}")) for number in range(count)]

    async def _write(self, key: str) -> None:
        number = 0
        while not self._ended:
            number += 1
            try:
                await self._client.put(key, str(number))
            except fastkv.FastKVError as error:
                self.failures.append(f"{key} {number}: {error!r}")
            else:
                now = time.monotonic()
                self._longest = max(self._longest, now - self._newest)
                self._newest = now
                self.acknowledged += 1

    def longest_gap_ms(self) -> float:
        """The longest since this was asked last."""
        longest, self._longest = self._longest, 0.0
        return longest * 1000

    async def end(self) -> None:
        """Wait for what is under way."""
        self._ended = True
        await asyncio.gather(*self._tasks)
