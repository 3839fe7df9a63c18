"""One kept-alive HTTP connection to one node, for clients that speak nothing else, and for looking at a cluster.

What failed says whether the request may have reached the node: only that tells *not done* from *unknown*.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from fastkv.config import HostPort, parse_host_port

LINE_LIMIT_BYTES = 1 << 16


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as an object. ValueError where it is none."""
        parsed = orjson.loads(self.body)
        if not isinstance(parsed, dict):
            raise ValueError("no JSON object")
        return parsed


class DoorError(Exception):
    """No answer. `sent`: whether the node may have got the request."""

    def __init__(self, reason: BaseException | str, *, sent: bool) -> None:
        super().__init__(str(reason) or type(reason).__name__)
        self.sent = sent


class HttpDoor:
    """Requests to one node, one at a time. A connection that fails is made anew by the next request."""

    def __init__(self, address: str) -> None:
        parsed = parse_host_port(address)
        assert parsed is not None, address
        self.address: HostPort = parsed
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        within_s: float = 1.0,
    ) -> Answer:
        """Ask, and wait for the answer. DoorError where none comes in time."""
        sent = False
        try:
            async with asyncio.timeout(within_s):
                reader, writer = await self._connected()
                sent = True
                writer.write(self._head(method, path, body, headers or {}) + body)
                return await self._answer(reader)
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            self.close()
            raise DoorError(error, sent=sent) from None
        except BaseException:
            self.close()        # the answer to this one must not be taken for the next one's
            raise

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._writer is None or self._reader.at_eof():
            self.close()
            self._reader, self._writer = await asyncio.open_connection(*self.address, limit=LINE_LIMIT_BYTES)
        return self._reader, self._writer

    def _head(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        fields = {"Host": str(self.address), "Content-Length": str(len(body)), **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()

    async def _answer(self, reader: asyncio.StreamReader) -> Answer:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split()[1])
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        body = await reader.readexactly(int(fields["content-length"]))
        if fields.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, body)

    def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None
