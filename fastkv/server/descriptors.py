"""File descriptors: a node that runs out of them could not open its next log segment, so connections are bounded first.

The usual soft limit of 1,024 is far below what the kernel allows (the hard limit), for the sake of programs that use
select(2); this one does not.
"""

from __future__ import annotations

import logging
import resource

log = logging.getLogger(__name__)

RESERVED = 256
"""For everything that is no client: segments of the log, the store, snapshots, the links between nodes."""
PORTS = 2


def provide(connections: int) -> int:
    """Raise the soft limit as far as so many connections on each port need it; how many each port may have, then."""
    needed = PORTS * connections + RESERVED
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most == needed:
        return connections
    possible = max((most - RESERVED) // PORTS, 1)
    log.warning(
        "this process may have %d files open, so at most %d connections on each port instead of limits.connections = "
        "%d: raise the hard limit (ulimit -Hn, LimitNOFILE) to %d",
        hard, possible, connections, needed,
    )  # fmt: skip
    return possible
