"""The loads: `put-c64x16` is puts on 64 connections with 16 requests in flight on each; `c64` means `c64x1`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self, cast

Operation = Literal["put", "get", "lease-get", "http-put", "http-get"]

_LOAD = re.compile(r"(put|get|lease-get|http-put|http-get)-c(\d+)(?:x(\d+))?")


@dataclass(frozen=True, slots=True)
class Load:
    """One load. `http-…` goes through the JSON interface of those that have one, the others through the fastest.

    `get` is linearizable by a round of the leader's for all that wait, `lease-get` by its lease, where there are
    leases; the others do what they do for `get`.
    """

    operation: Operation
    connections: int
    depth: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """ValueError where the text is no load."""
        match = _LOAD.fullmatch(text)
        if match is None:
            raise ValueError(f"a load is written put-c64x16, get-c1 or http-put-c64, not {text!r}")
        load = cls(cast(Operation, match[1]), int(match[2]), int(match[3] or 1))
        if not (0 < load.connections <= 4096 and 0 < load.depth <= 1024):
            raise ValueError(f"{text}: from 1 to 4096 connections, with 1 to 1024 requests in flight on each")
        return load

    def __str__(self) -> str:
        return f"{self.operation}-c{self.connections}" + (f"x{self.depth}" if self.depth > 1 else "")

    @property
    def reads(self) -> bool:
        return self.operation.endswith("get")

    @property
    def over_http(self) -> bool:
        return self.operation.startswith("http")


@dataclass(frozen=True, slots=True)
class Data:
    """What is stored: `keys` keys of 16 bytes, `key-000000000000` and on, with values of `value_bytes`."""

    keys: int
    value_bytes: int

    def key(self, number: int) -> str:
        return f"key-{number:012}"

    @property
    def value(self) -> str:
        return "v" * self.value_bytes
