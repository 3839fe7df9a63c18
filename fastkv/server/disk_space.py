"""How much room there is on the disk of the data directory.

A disk that does not answer may not answer this question either, so the loop never asks it: a thread does, and who wants
to know gets its latest answer.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

MAX_AGE_S = 5.0
"""An answer that is older is asked for anew."""


class DiskSpace:
    """The file system that `path` is on. OSError where there is no `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._asking: threading.Thread | None = None
        self._ask()

    @property
    def total_bytes(self) -> int:
        """Bytes in all."""
        return self._answer[0]

    @property
    def free_bytes(self) -> int:
        """Bytes that may still be written."""
        return self._answer[1]

    def refresh(self) -> None:
        """Have the figures looked up, unless they are fresh or being looked up. Does not wait."""
        if (self._asking is None or not self._asking.is_alive()) and time.monotonic() - self._asked > MAX_AGE_S:
            # A daemon, because the end of the process must not wait for such a disk either.
            self._asking = threading.Thread(target=self._ask, name="disk space", daemon=True)
            self._asking.start()

    def _ask(self) -> None:
        found = os.statvfs(self._path)
        self._answer = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
        self._asked = time.monotonic()
