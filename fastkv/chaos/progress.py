"""How a run tells what it does: one line that is written over on a terminal, else a line for each thing that happens.

It goes to stderr, so that stdout is the verdict's alone.
"""

from __future__ import annotations

import sys
import time
from typing import TextIO

LINE_EVERY_S = 10.0
WIDTH = 110


class Progress:
    """`say` is for what happens, `state` for how it goes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._said_at = time.monotonic()
        self._shown = False

    def say(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        self._write(text + "\n")

    def state(self, text: str) -> None:
        """How it goes now: replaces the last one on a terminal; elsewhere it is said now and then."""
        if self._terminal:
            self._write("\r" + text[:WIDTH].ljust(WIDTH))
            self._shown = True
        elif time.monotonic() - self._said_at >= LINE_EVERY_S:
            self._said_at = time.monotonic()
            self._write(text + "\n")

    def _clear(self) -> None:
        if self._shown:
            self._write("\r" + " " * WIDTH + "\r")
            self._shown = False

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
