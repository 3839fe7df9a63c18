"""The errors that a user can meet, each with a stable code and what to do about it.

Two families matter more than any single class:

* `NotDone`: provably not applied. Trying again is safe.
* `OutcomeUnknown`: the write may or may not have been applied. Trying again may apply it twice.

They are never mixed up. A broken invariant is no error in this sense: it is an assertion and stops the node.
"""

from __future__ import annotations

from fastkv._core.codes import Status


class FastKVError(Exception):
    """Base of everything fastkv raises on purpose. `code` is stable across releases and equals the HTTP face's code."""

    code = "ERROR"

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").splitlines()[0])


class ConfigError(FastKVError):
    """The configuration has an unknown key or a bad value."""

    code = "INVALID_CONFIG"


class StorageError(FastKVError):
    """The data directory cannot be used."""

    code = "STORAGE_ERROR"


class WrongDirectory(StorageError):
    """The data directory belongs to another node or another cluster."""

    code = "WRONG_DIRECTORY"


class NewerVersion(StorageError):
    """The data was written by a newer release, or is of a cluster that speaks a newer protocol than this node."""

    code = "NEWER_VERSION"


class DirectoryInUse(StorageError):
    """Another process uses the data directory."""

    code = "DIRECTORY_IN_USE"


class NoDataDirectory(StorageError):
    """The directory is no node's data directory."""

    code = "NO_DATA_DIRECTORY"


class DamagedLog(StorageError):
    """The write-ahead log is damaged in a place that had been durable."""

    code = "DAMAGED_LOG"


class DamagedStore(StorageError):
    """The state machine's store is damaged: it is not what was written."""

    code = "DAMAGED_STORE"


class BadBackup(StorageError):
    """The file is no backup, or not what was written when it was made. Use another one."""

    code = "BAD_BACKUP"


class BackupExists(StorageError):
    """There is a file of that name already, and it is left as it is. Give another name."""

    code = "BACKUP_EXISTS"


class BadArchive(StorageError):
    """The archived log does not have the entries that are asked for, or not as they were written."""

    code = "BAD_ARCHIVE"


class RestoreRefused(StorageError):
    """The backup is not to be restored so; the message says why. Nothing has changed."""

    code = "RESTORE_REFUSED"


class RequestError(FastKVError):
    """The request itself is at fault; the same request will fail again."""

    code = "INVALID_REQUEST"


class InvalidKey(RequestError):
    """A key has 1 to 511 bytes."""

    code = "INVALID_KEY"


class TooLarge(RequestError):
    """The key, value or frame is over its limit."""

    code = "TOO_LARGE"


class KeyTooLarge(TooLarge):
    """A key has at most 511 bytes."""

    code = "KEY_TOO_LARGE"


class ValueTooLarge(TooLarge):
    """The value is over limits.value_bytes."""

    code = "VALUE_TOO_LARGE"


class Unsupported(RequestError):
    """This server does not know that request."""

    code = "UNSUPPORTED"


class Unauthenticated(FastKVError):
    """The credentials were refused."""

    code = "UNAUTHENTICATED"


class WrongCluster(FastKVError):
    """The server belongs to another cluster than the one asked for."""

    code = "WRONG_CLUSTER"


class PreconditionFailed(FastKVError):
    """The key's revision is not the one that the write asked for; nothing was changed."""

    code = "PRECONDITION_FAILED"

    def __init__(self, message: str = "", *, revision: int = 0) -> None:
        super().__init__(message)
        self.revision = revision
        """The key's current mod revision, 0 where the key does not exist."""


class ChangeRefused(FastKVError):
    """The change of members or leadership is not possible now; the message says why. Nothing has changed."""

    code = "CHANGE_REFUSED"


class Removed(FastKVError):
    """The node was removed from the cluster; under the same data directory it cannot come back."""

    code = "REMOVED"


class WrongDisk(FastKVError):
    """The cluster knows the node with another disk: its data directory was wiped, or two nodes use one id.

    Remove the member and add it anew: without what it has acknowledged it must not vote.
    """

    code = "WRONG_DISK"


class WrongAddress(FastKVError):
    """The cluster knows another node under this id, at another address: two nodes use it; stop one of them."""

    code = "WRONG_ADDRESS"


class SessionExpired(FastKVError):
    """The session of the write is not known any more: this attempt was not done, an earlier one may have been."""

    code = "SESSION_EXPIRED"


class NotDone(FastKVError):
    """The request was not carried out and never will be; trying again is safe."""

    code = "NOT_DONE"


class Unavailable(NotDone):
    """No node could take the request in time."""

    code = "NO_LEADER"


class Overloaded(NotDone):
    """The cluster has more work than it may queue; try again a little later."""

    code = "OVERLOADED"


class NoSpace(NotDone):
    """The node's disk is full: writes are refused, reads go on. Free some space."""

    code = "NO_SPACE"


class CorruptState(NotDone):
    """The node's state differs from the others': it serves nothing. Wipe it and let it join anew; ask another node."""

    code = "CORRUPT_STATE"


class Timeout(NotDone):
    """A read, or a write that was never sent, found no answer within its deadline."""

    code = "TIMEOUT"


class CursorExpired(NotDone):
    """The scan's snapshot is gone; start the scan again."""

    code = "CURSOR_EXPIRED"


class OutcomeUnknown(FastKVError):
    """The write may or may not have been applied; read before trying again."""

    code = "OUTCOME_UNKNOWN"


class ProtocolError(FastKVError):
    """The other side sent bytes that are not of the protocol."""

    code = "PROTOCOL_ERROR"


_BY_STATUS: dict[int, type[FastKVError]] = {
    Status.PRECONDITION_FAILED: PreconditionFailed,
    Status.INVALID_KEY: InvalidKey,
    Status.KEY_TOO_LARGE: KeyTooLarge,
    Status.VALUE_TOO_LARGE: ValueTooLarge,
    Status.INVALID_REQUEST: RequestError,
    Status.UNKNOWN_OPCODE: Unsupported,
    Status.UNSUPPORTED_VERSION: Unsupported,
    Status.UNSUPPORTED: Unsupported,
    Status.FRAME_TOO_LARGE: TooLarge,
    Status.UNAUTHENTICATED: Unauthenticated,
    Status.WRONG_CLUSTER: WrongCluster,
    Status.REMOVED: Removed,
    Status.WRONG_DISK: WrongDisk,
    Status.WRONG_ADDRESS: WrongAddress,
    Status.CHANGE_REFUSED: ChangeRefused,
    Status.NO_LEADER: Unavailable,
    Status.NOT_LEADER: Unavailable,
    Status.OVERLOADED: Overloaded,
    Status.NO_SPACE: NoSpace,
    Status.SHUTTING_DOWN: Unavailable,
    Status.SESSION_EXPIRED: SessionExpired,
    Status.CORRUPT_STATE: CorruptState,
    Status.TIMEOUT: Timeout,
    Status.CURSOR_EXPIRED: CursorExpired,
    Status.OUTCOME_UNKNOWN: OutcomeUnknown,
}


def error_for(status: int, message: str = "") -> FastKVError:
    """The error that stands for a response's status. `status` is a `Status` other than OK and KEY_NOT_FOUND."""
    kind = _BY_STATUS.get(status)
    if kind is None:
        return ProtocolError(message or f"the server answered with the unknown status {status}")
    return kind(message)
