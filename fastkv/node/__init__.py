"""The node: consensus, state machine and log store joined, without sockets, clocks or threads.

* `node.Node` is the whole of it: requests and peer messages in, frames and answers out, one synchronous `pump` a turn.
* `writes` keeps what the node has promised to answer: proposals of its own, and batches forwarded to the leader.
* `reads` keeps the reads that wait for a confirmation of leadership, and then for the state to be applied.
* `ports` states what a node needs of the world around it.

The server runs a node over uvloop and real disks; the simulator runs the very same code over a virtual clock, network
and disk.
"""

from fastkv.node.node import Node
from fastkv.node.ports import Addresses, NodeSettings, PeerStatus, Transport

__all__ = ["Addresses", "Node", "NodeSettings", "PeerStatus", "Transport"]
