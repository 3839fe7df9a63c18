"""The synchronous client: the asyncio client on a thread of its own, and nothing more.

Every call hands a coroutine to that thread's loop and waits for it, so the semantics are exactly those of
`AsyncClient`, calls of several threads are pipelined on one connection, and a Ctrl-C ends the waiting at once (the
request is cancelled; a write that was already sent may still be applied).
"""

from __future__ import annotations

import asyncio
import threading
import warnings
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

import uvloop

from fastkv.client.addresses import DEFAULT_ENDPOINT
from fastkv.client.aio import AsyncClient
from fastkv.client.faults import ClientClosed
from fastkv.client.results import ConsistencyName, Item, Text
from fastkv.client.scan import Scan
from fastkv.wire.client import LOG_ENTRIES

T = TypeVar("T")


class _LoopThread:
    """An event loop on a daemon thread. `stop` ends every task, closes the loop and joins the thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped = False
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="fastkv-client", daemon=True)
        self._thread.start()
        self._loop, self._stop = started.result()

    @staticmethod
    def _run(started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
        async def until_stopped() -> None:
            stop = asyncio.Event()
            started.set_result((asyncio.get_running_loop(), stop))
            await stop.wait()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(until_stopped())

    def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the loop and wait for its result. ClientClosed once the thread is stopped."""
        with self._lock:  # so that no call slips in behind the stop and waits for ever
            if self._stopped:
                raise ClientClosed
            future = asyncio.run_coroutine_threadsafe(make(), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # KeyboardInterrupt while waiting; no effect on a future that is done
            raise

    def stop(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `last`, then end the loop and the thread. Does nothing the second time."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            future = asyncio.run_coroutine_threadsafe(last(), self._loop)
        try:
            future.result()
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()


def _stop_forgotten(thread: _LoopThread, client: AsyncClient) -> None:
    """A client was dropped, or the interpreter ends, without close()."""
    warnings.warn("a fastkv.Client was not closed; use it in a `with` block", ResourceWarning, stacklevel=2)
    thread.stop(client.close)


class Client:
    """A synchronous client of a cluster; may be used from several threads at once. The parameters of `AsyncClient`."""

    def __init__(
        self,
        endpoints: str | Iterable[str] = DEFAULT_ENDPOINT,
        *,
        timeout: float = 5.0,
        connect_timeout: float = 1.0,
        max_in_flight: int = 1024,
        cluster: str = "",
        credentials: Text = b"",
        follow_leader: bool = True,
        exactly_once: bool = True,
    ) -> None:
        self._client = AsyncClient(
            endpoints,
            timeout=timeout,
            connect_timeout=connect_timeout,
            max_in_flight=max_in_flight,
            cluster=cluster,
            credentials=credentials,
            follow_leader=follow_leader,
            exactly_once=exactly_once,
        )
        self._thread = _LoopThread()
        self._finalizer = weakref.finalize(self, _stop_forgotten, self._thread, self._client)

    def connect(self, timeout: float | None = None) -> None:
        """Connect to some node, so that what is wrong shows here; see `AsyncClient.connect`."""
        self._thread.call(lambda: self._client.connect(timeout))

    def close(self) -> None:
        """Close the connections and end the thread. Calls under way in other threads end with an error."""
        self._finalizer.detach()
        self._thread.stop(self._client.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def put(self, key: Text, value: Text, *, if_revision: int | None = None, timeout: float | None = None) -> int:
        """Store a value; the cluster's revision of this write. See `AsyncClient.put`."""
        return self._thread.call(lambda: self._client.put(key, value, if_revision=if_revision, timeout=timeout))

    def delete(self, key: Text, *, if_revision: int | None = None, timeout: float | None = None) -> bool:
        """Delete a key; whether there was one. See `AsyncClient.delete`."""
        return self._thread.call(lambda: self._client.delete(key, if_revision=if_revision, timeout=timeout))

    def get(self, key: Text, *, consistency: ConsistencyName = "linearizable", timeout: float | None = None) -> Item:
        """Read a key; an item whose `value` is None where there is none. See `AsyncClient.get`."""
        return self._thread.call(lambda: self._client.get(key, consistency=consistency, timeout=timeout))

    def scan(
        self,
        prefix: Text | None = None,
        *,
        start: Text | None = None,
        end: Text | None = None,
        limit: int | None = None,
        reverse: bool = False,
        keys_only: bool = False,
        consistency: ConsistencyName = "linearizable",
        timeout: float | None = None,
    ) -> Iterator[Item]:
        """The items of a range, of one snapshot, in order. See `AsyncClient.scan`."""
        scan = self._client.scan(
            prefix,
            start=start,
            end=end,
            limit=limit,
            reverse=reverse,
            keys_only=keys_only,
            consistency=consistency,
            timeout=timeout,
        )
        return self._items(scan)

    def _items(self, scan: Scan) -> Iterator[Item]:
        while page := self._thread.call(scan.next_page):
            yield from page

    def admin(self, request: dict[str, Any], *, timeout: float | None = None) -> dict[str, Any]:
        """Ask for other members or another leader. See `AsyncClient.admin`."""
        return self._thread.call(lambda: self._client.admin(request, timeout=timeout))

    def log(self, first: int = 0, limit: int = LOG_ENTRIES, *, timeout: float | None = None) -> dict[str, Any]:
        """Entries of the connected node's log, for a person to read. See `AsyncClient.log`."""
        return self._thread.call(lambda: self._client.log(first, limit, timeout=timeout))

    def status(self, *, timeout: float | None = None) -> dict[str, Any]:
        """The cluster as the connected node sees it. See `AsyncClient.status`."""
        return self._thread.call(lambda: self._client.status(timeout=timeout))


def connect(
    endpoints: str | Iterable[str] = DEFAULT_ENDPOINT,
    *,
    timeout: float = 5.0,
    connect_timeout: float = 1.0,
    max_in_flight: int = 1024,
    cluster: str = "",
    credentials: Text = b"",
    follow_leader: bool = True,
    exactly_once: bool = True,
) -> Client:
    """A connected synchronous client, to be used in a `with` block. The parameters and errors of `AsyncClient`."""
    client = Client(
        endpoints,
        timeout=timeout,
        connect_timeout=connect_timeout,
        max_in_flight=max_in_flight,
        cluster=cluster,
        credentials=credentials,
        follow_leader=follow_leader,
        exactly_once=exactly_once,
    )
    try:
        client.connect()
    except BaseException:
        client.close()
        raise
    return client
