"""The lossy disk as a file system (FUSE), in a process of its own that takes orders on its standard input.

    python -m tests.faults.lossy_fs MOUNT_POINT DISK_FILE

The disk is read from DISK_FILE, where there is one, and written there at a power cut. Orders and answers are JSON, one
a line; see `LossyMount` for what they mean. Whatever is changed goes through here at once (the kernel's cache is
written through), so a process that is killed loses nothing: its data is where the page cache of a real disk would be,
in the disk's volatile layer.

A *change* is any call that would change what is seen or what is durable. They are counted by kind (`Kind`), and the
n-th of some kinds can be armed: before it takes effect, whoever calls is killed, or the power goes.

One thing is missing that a real file system has: `fstat` of a file that was unlinked while it is open (the kernel does
not say by which descriptor it asks).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mfusepy

from tests.faults.lossy_disk import ROOT, Directory, File, Kind, Loss, LossyDisk

CACHE_S = 3600.0
"""Nobody changes the disk behind the kernel's back."""


class LossyFileSystem(mfusepy.Operations):
    """What the kernel asks of a file system, answered by a `LossyDisk`."""

    use_ns = True

    def __init__(self, disk: LossyDisk, disk_file: Path) -> None:
        self._disk = disk
        self._disk_file = disk_file
        self._lock = threading.Lock()       # the orders come on another thread
        self._open: Counter[int] = Counter()
        self._off = False
        """Whether the power is gone: every call fails."""
        self._armed: Callable[[], None] | None = None
        self._armed_kinds: frozenset[str] = frozenset()
        self._changes = 0
        self._at = 0

    # -- orders --------------------------------------------------------------------------------------------------------

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out an order; the answer."""
        with self._lock:
            answer: dict[str, Any] = getattr(self, "_order_" + order.pop("do"))(**order) or {}
        return answer

    def _order_cut(self, loss: str, seed: int) -> None:
        if not self._off:
            self._off = True
            self._disk.cut(Loss(loss), seed)
            self._disk_file.write_bytes(pickle.dumps(self._disk))

    def _order_lie(self, lies: bool) -> None:
        self._disk.syncs_lie = lies

    def _order_arm(self, at: int, kinds: list[str], loss: str, seed: int) -> None:
        """Before the `at`-th change of these kinds the power goes, or, without a `loss`, only the caller."""
        self._changes, self._at, self._armed_kinds = 0, at, frozenset(kinds)
        self._armed = (lambda: self._order_cut(loss, seed)) if loss else (lambda: None)

    def _order_changes(self) -> dict[str, Any]:
        return {"changes": self._changes, "fired": self._armed is None, "off": self._off}

    def _alive(self) -> None:
        if self._off:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _change(self, kind: Kind) -> None:
        """Something is about to change."""
        self._alive()
        caller = mfusepy.fuse_get_context()[2]
        if caller == 0 or kind not in self._armed_kinds:
            return          # 0 is the kernel itself: a mapped page that it writes when it likes to
        self._changes += 1
        if self._armed is not None and self._changes == self._at:
            armed, self._armed = self._armed, None
            with contextlib.suppress(ProcessLookupError):
                os.kill(caller, signal.SIGKILL)
            armed()
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    # -- the start -----------------------------------------------------------------------------------------------------

    def init_with_config(self, conn_info: Any, config_3: Any) -> None:
        """Mounted: caches may be kept for ever, and what is unlinked needs no other name while it is open."""
        config = config_3
        config.hard_remove = config.nullpath_ok = config.kernel_cache = 1
        config.entry_timeout = config.attr_timeout = CACHE_S
        config.negative_timeout = 0.0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        _say({"mounted": True})
        for line in sys.stdin:
            _say(self.obey(json.loads(line)))
        os._exit(0)         # whoever gives the orders is gone

    # -- names ---------------------------------------------------------------------------------------------------------

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """Kind, size and number."""
        with self._lock:
            self._alive()
            number = fh or self._disk.find(path)
            node = self._disk.nodes[number]
            size = len(node.data) if isinstance(node, File) else 0
            return {
                "st_mode": node.mode,
                "st_nlink": 2 if isinstance(node, Directory) else 1,
                "st_size": size,
                "st_blocks": (size + 511) // 512,
                "st_ino": number,
                "st_uid": os.getuid(),
                "st_gid": os.getgid(),
            }

    def readdir(self, path: str, fh: int) -> list[str]:
        """The names in a directory."""
        with self._lock:
            self._alive()
            return [".", "..", *self._disk.directory(fh).names]

    def opendir(self, path: str) -> int:
        """A descriptor for `readdir` and `fsyncdir`."""
        return self.open(path, 0)

    def releasedir(self, path: str, fh: int) -> int:
        """The last use of such a descriptor."""
        return self.release(path, fh)

    def mkdir(self, path: str, mode: int) -> int:
        """A new directory."""
        with self._lock:
            self._change(Kind.NAME)
            self._disk.mkdir(path, mode)
        return 0

    def unlink(self, path: str) -> int:
        """Remove a name."""
        with self._lock:
            self._change(Kind.NAME)
            self._disk.remove(path)
        return 0

    def rmdir(self, path: str) -> int:
        """Remove an empty directory."""
        return self.unlink(path)

    def rename(self, old: str, new: str) -> int:
        """Another name."""
        with self._lock:
            self._change(Kind.NAME)
            self._disk.rename(old, new)
        return 0

    # -- files ---------------------------------------------------------------------------------------------------------

    def create(self, path: str, mode: int) -> int:
        """A new file, open."""
        with self._lock:
            self._change(Kind.NAME)
            number = self._disk.create(path, mode)
            self._open[number] += 1
            return number

    def open(self, path: str, flags: int) -> int:
        """A descriptor: the number of what it is open for."""
        with self._lock:
            self._alive()
            number = self._disk.find(path)
            self._open[number] += 1
            return number

    def release(self, path: str, fh: int) -> int:
        """The last use of a descriptor."""
        with self._lock:
            self._open[fh] -= 1
            self._disk.collect(+self._open)
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """Bytes as they are seen."""
        with self._lock:
            self._alive()
            return bytes(memoryview(self._disk.file(fh).data)[offset : offset + size])

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """Write; with O_DSYNC the kernel asks for a sync by itself."""
        with self._lock:
            self._change(Kind.WRITE)
            self._disk.file(fh).write(offset, data)
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        """Make a file longer or shorter."""
        with self._lock:
            self._change(Kind.WRITE)
            self._disk.file(fh or self._disk.find(path)).resize(length)
        return 0

    def fallocate(self, path: str, mode: int, offset: int, size: int, fh: int) -> int:
        """Make room: the file gets longer, with zeros. The other modes are not there."""
        with self._lock:
            if mode:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            self._change(Kind.WRITE)
            file = self._disk.file(fh)
            file.resize(max(len(file.data), offset + size))
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        """Make a file durable; its size too, whatever the call was."""
        return self._sync(Kind.SYNC, fh)

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        """Make a directory's names durable."""
        return self._sync(Kind.SYNC_NAMES, fh)

    def _sync(self, kind: Kind, fh: int) -> int:
        with self._lock:
            self._change(kind)
            self._disk.sync(fh)
        return 0

    # -- what nobody here depends on -----------------------------------------------------------------------------------

    def chmod(self, path: str, mode: int) -> int:
        """The mode is seen, and as durable as the file."""
        with self._lock:
            self._alive()
            node = self._disk.nodes[self._disk.find(path)]
            node.mode = node.mode & ~0o7777 | mode & 0o7777
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        """There are no times."""
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        """There is room."""
        return {"f_bsize": 4096, "f_frsize": 4096, "f_blocks": 1 << 20, "f_bfree": 1 << 20, "f_bavail": 1 << 20}


class _Mount(mfusepy.FUSE):
    """The binding, which forgets by which descriptor a file is truncated; it may have no path any more."""

    def truncate_fuse_3(self, path: bytes | None, length: int, fip: Any) -> int:
        """Called by libfuse."""
        return self.operations.truncate((path or b"").decode(), length, fip.contents.fh if fip else None)


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def main() -> None:
    """Serve until the file system is unmounted, or whoever started this is gone."""
    mount_point, disk_file = Path(sys.argv[1]), Path(sys.argv[2])
    disk = pickle.loads(disk_file.read_bytes()) if disk_file.exists() else LossyDisk()
    assert ROOT in disk.nodes
    file_system = LossyFileSystem(disk, disk_file)
    _Mount(file_system, str(mount_point), foreground=True, nothreads=True, fsname="lossy")


if __name__ == "__main__":
    main()
