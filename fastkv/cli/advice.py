"""What to do about an error, by its code: the second line that a command prints, and `hint` in its JSON.

Where the error's own text says what to do already (a bad configuration, a damaged log, a refused change), there is none
here: "" stands for that, so that no code is forgotten. docs/failures.md says more about each.
"""

from __future__ import annotations

SAFE = "nothing was done, so trying again is safe"
UNKNOWN = "it may have been done: look (`fastkv get KEY`, `fastkv member list`) before you try again"
RAISE_TIMEOUT = "--timeout SECONDS waits longer, and `fastkv inspect status` shows how each node is"

ADVICE = {
    "ERROR": "",
    # of the command line itself
    "KEY_NOT_FOUND": "",
    "NOT_A_NUMBER": "`fastkv get KEY` shows what is there; `fastkv put KEY 0` makes it a counter that begins at 0",
    # of the configuration and of data directories: their texts name the place and the remedy
    "INVALID_CONFIG": "",
    "STORAGE_ERROR": "",
    "WRONG_DIRECTORY": "give the node its own --data-dir, or start it under the id and cluster that it belongs to",
    "DIRECTORY_IN_USE": "stop that process first; one process has a data directory at a time",
    "NO_DATA_DIRECTORY": "name the directory of one node, such as data/cluster/node-1",
    "DAMAGED_LOG": "",
    "DAMAGED_STORE": "",
    "NEWER_VERSION": "",
    # of backups, likewise
    "BAD_BACKUP": "take another one; `fastkv snapshot status FILE` says of each whether it is whole",
    "BACKUP_EXISTS": "give another name, or --directory, which names each file by its date",
    "BAD_ARCHIVE": "",
    "RESTORE_REFUSED": "",
    # of requests
    "INVALID_REQUEST": "",
    "INVALID_KEY": "a key has 1 to 511 bytes, any bytes",
    "TOO_LARGE": "split what you send, or raise limits.client_frame_bytes on every node",
    "KEY_TOO_LARGE": "use a shorter key, such as a hash of the long one; the limit is the store's and fixed",
    "VALUE_TOO_LARGE": "store it in pieces, or raise limits.value_bytes on every node (docs/configuration.md)",
    "UNSUPPORTED": "the node speaks another version: compare `fastkv version` here with GET / on the node",
    "UNAUTHENTICATED": "check the credentials that this client was given",
    "WRONG_CLUSTER": "--endpoints names a node of another cluster; `fastkv cluster status` shows who answers there",
    "PRECONDITION_FAILED": "nothing was changed; read the key again, and decide on what is there now",
    "CHANGE_REFUSED": "",
    "REMOVED": "start it with an empty data directory and --join, and add it with `fastkv member add`",
    "WRONG_DISK": "`fastkv member remove` the old one and `fastkv member add` it anew (docs/operations.md)",
    "WRONG_ADDRESS": "stop the other node of that id, or tell the cluster of a move with `fastkv member update`",
    "SESSION_EXPIRED": UNKNOWN,
    # not done
    "NOT_DONE": SAFE,
    "NO_LEADER": (
        "`fastkv cluster status` asks each node; a majority has to be up. --endpoints or FASTKV_ENDPOINTS name other "
        "nodes; `fastkv cluster up --detach` starts a cluster here"
    ),
    "OVERLOADED": f"{SAFE}, a little later and with less at a time",
    "NO_SPACE": "free room on the disk of the data directory; the node takes writes again by itself",
    "CORRUPT_STATE": "ask another node, and replace that one (docs/operations.md: A node that must not serve)",
    "TIMEOUT": f"{SAFE}; {RAISE_TIMEOUT}",
    "CURSOR_EXPIRED": "start the scan again; limits.snapshot_ttl_s says how long one may pause",
    "CLIENT_CLOSED": "",
    # unknown
    "OUTCOME_UNKNOWN": UNKNOWN,
    "PROTOCOL_ERROR": "is that a fastkv node's raw-TCP port (9001, …), and not its HTTP port (8081, …)?",
    # of clusters on this machine: their texts name the remedy
    "CANNOT_START": "",
    "BAD_RECORD": "",
}


def advice(code: str) -> str:
    """What to do about an error with this code; empty where its text says it."""
    return ADVICE.get(code, "")
