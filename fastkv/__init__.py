"""fastkv: a replicated, strongly consistent key-value store.

    with fastkv.connect("localhost:9001,localhost:9002,localhost:9003") as kv:
        revision = kv.put("user:john", "John Doe")
        kv.get("user:john").value

Names are imported when they are first used: a node does not load the client, and a script that only wants
`fastkv.__version__` loads neither.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from fastkv.version import __version__

if TYPE_CHECKING:
    from fastkv.client import AsyncClient, Client, ClientClosed, Item, Scan, connect
    from fastkv.errors import (
        ChangeRefused,
        CorruptState,
        CursorExpired,
        FastKVError,
        InvalidKey,
        KeyTooLarge,
        NoSpace,
        NotDone,
        OutcomeUnknown,
        Overloaded,
        PreconditionFailed,
        ProtocolError,
        RequestError,
        Timeout,
        TooLarge,
        Unauthenticated,
        Unavailable,
        Unsupported,
        ValueTooLarge,
        WrongCluster,
    )

__all__ = [
    "AsyncClient",
    "ChangeRefused",
    "Client",
    "ClientClosed",
    "CorruptState",
    "CursorExpired",
    "FastKVError",
    "InvalidKey",
    "Item",
    "KeyTooLarge",
    "NoSpace",
    "NotDone",
    "OutcomeUnknown",
    "Overloaded",
    "PreconditionFailed",
    "ProtocolError",
    "RequestError",
    "Scan",
    "Timeout",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "Unsupported",
    "ValueTooLarge",
    "WrongCluster",
    "__version__",
    "connect",
]

_OF_THE_CLIENT = frozenset({"AsyncClient", "Client", "ClientClosed", "Item", "Scan", "connect"})


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'fastkv' has no attribute {name!r}")
    home = importlib.import_module("fastkv.client" if name in _OF_THE_CLIENT else "fastkv.errors")
    value: object = getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
