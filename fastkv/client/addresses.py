"""Where nodes listen: `host:port`, `[v6]:port`, and lists of them as users write them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

DEFAULT_PORT = 9001
DEFAULT_ENDPOINT = f"localhost:{DEFAULT_PORT}"


class Address(NamedTuple):
    """A raw-TCP address of a node."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `host:port`; the port is 9001 where there is none. ValueError for anything else."""
        text = text.strip()
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            port = rest[1:] if rest.startswith(":") else ""
            well_formed = bool(bracket) and (not rest or bool(port))
        else:
            host, colon, port = text.partition(":")
            well_formed = not colon or bool(port)
        if not (well_formed and host and (not port or (port.isascii() and port.isdigit()))):
            raise ValueError(f"an endpoint is written host:port, not {text!r}")
        number = int(port) if port else DEFAULT_PORT
        if not 0 < number < 65536:
            raise ValueError(f"a port is from 1 to 65535, not {number} as in {text!r}")
        return cls(host, number)


def parse_endpoints(endpoints: str | Iterable[str]) -> list[Address]:
    """The addresses of `"h1:p1,h2:p2"` or of a list of such, each once, in order. ValueError where there is none."""
    texts = [endpoints] if isinstance(endpoints, str) else list(endpoints)
    parts = [part for text in texts for part in text.split(",") if part.strip()]
    if not parts:
        raise ValueError("at least one endpoint is needed, for instance 'localhost:9001'")
    return list(dict.fromkeys(Address.parse(part) for part in parts))
