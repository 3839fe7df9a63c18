"""Where a name leads to, asked anew for every attempt to connect, without anything waiting for a name server.

In a container a peer's address changes at each start, and its name may not exist yet, or no more; a name server may
answer late, or not at all. The loop's own lookups are made by four threads of its library, which nobody can call back:
a few names that are not answered would hold up every other one, and the end of the process. So each lookup has a daemon
thread of its own, and one that is under way is waited for again instead of asked again. Where there is no answer, what
was answered last is used: whoever is there has to say who it is anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

Lookup = Callable[[str], list[str]]


def ask_system(host: str) -> list[str]:
    """The addresses of a name, in the order in which to try them. OSError where there is none. It may block."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:      # a label that is empty or too long
        raise OSError(f"{host!r} is no host name: {error}") from None
    return list(dict.fromkeys(str(address[0]) for _, _, _, _, address in found))


class Names:
    """Resolves host names on the event loop, for one owner."""

    def __init__(self, lookup: Lookup = ask_system) -> None:
        self._lookup = lookup
        self._under_way: dict[str, asyncio.Future[list[str]]] = {}
        self._last: dict[str, list[str]] = {}

    async def addresses(self, host: str, timeout_s: float) -> list[str]:
        """Where to try to connect, at least one address. OSError where none is known within the time, or ever was."""
        with contextlib.suppress(ValueError):
            return [str(ipaddress.ip_address(host))]
        under_way = self._under_way.get(host)
        if under_way is None:
            under_way = self._under_way[host] = self._begin(host)
        # Not wait_for: it would cancel what others, and the next attempt, wait for as well.
        await asyncio.wait((under_way,), timeout=timeout_s)
        if under_way.done() and under_way.exception() is None:
            return under_way.result()
        reason = under_way.exception() if under_way.done() else f"no answer within {timeout_s:g} s"
        if host in self._last:
            log.debug("%s cannot be resolved (%s); trying what it was last", host, reason)
            return self._last[host]
        raise OSError(f"{host} cannot be resolved: {reason}")

    def _begin(self, host: str) -> asyncio.Future[list[str]]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()

        def ended(found: list[str], error: OSError | None) -> None:
            self._under_way.pop(host, None)
            if error is None:
                self._last[host] = found
                answer.set_result(found)
            else:
                answer.set_exception(error)
                answer.exception()     # nobody may be waiting any more

        def ask() -> None:
            found: list[str] = []
            error: OSError | None = None
            try:
                found = self._lookup(host)
            except OSError as failure:
                error = failure
            with contextlib.suppress(RuntimeError):     # the loop is closed: nobody wants to know any more
                loop.call_soon_threadsafe(ended, found, error)

        threading.Thread(target=ask, name=f"lookup of {host}", daemon=True).start()
        return answer
