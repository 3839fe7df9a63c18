"""What applications import: `AsyncClient` for asyncio, `connect` and `Client` for everything else.

From the bottom up: `connection` is one pipelined framed connection; `cluster` chooses nodes, follows the leader and
decides what may be tried again; `session` makes a write one write however often it is sent; `aio` is the interface,
with `scan` for its one stateful part; `sync` puts a thread under it.
"""

from fastkv.client.aio import AsyncClient
from fastkv.client.faults import ClientClosed
from fastkv.client.results import Item
from fastkv.client.scan import Scan
from fastkv.client.sync import Client, connect

__all__ = ["AsyncClient", "Client", "ClientClosed", "Item", "Scan", "connect"]
