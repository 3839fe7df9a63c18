"""Writers that never stop, for tests that change a cluster under their hands."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import fastkv


class Writers:
    """Threads that put ever new values, each under a key of its own, through the client library.

    `failures` holds what went wrong, `acknowledged` each key's newest value that was acknowledged, and `longest_gap_s`
    the longest time in which no write at all was acknowledged.
    """

    def __init__(self, endpoints: str, count: int = 8, *, exactly_once: bool = True) -> None:
        self.failures: list[str] = []
        self.acknowledged: dict[str, int] = {}
        self.writes = 0
        self.longest_gap_s = 0.0
        self._newest = time.monotonic()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._client = fastkv.connect(endpoints, exactly_once=exactly_once, timeout=60)
        self._threads = [threading.Thread(target=self._write, args=(f"writer-{n}",)) for n in range(count)]

    def _write(self, key: str) -> None:
        number = 0
        while not self._stopped.is_set():
            number += 1
            try:
                self._client.put(key, str(number))
            except fastkv.FastKVError as error:
                self.failures.append(f"{key} {number}: {error!r}")
                continue
            self._acknowledged(key, number)

    def _acknowledged(self, key: str, number: int) -> None:
        with self._lock:
            now = time.monotonic()
            self.longest_gap_s = max(self.longest_gap_s, now - self._newest)
            self._newest = now
            self.writes += 1
            self.acknowledged[key] = number

    def until(self, more_writes: int) -> None:
        """Wait until so many more writes have been acknowledged."""
        wanted = self.writes + more_writes
        while self.writes < wanted and not self.failures:
            time.sleep(0.01)

    def lost(self) -> list[str]:
        """Acknowledged values that are not there any more. To be asked after the end."""
        with self._client as kv:
            return [
                f"{key}: {kv.get(key).value!r}, not {number}"
                for key, number in self.acknowledged.items()
                if kv.get(key).value != str(number).encode()
            ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.until(20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
