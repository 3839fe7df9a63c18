"""Logs: one line an event on stderr, each with the node, its role and its term.

Two formats: `console` for a person, and `json`, one object a line, for a collector. Fields given as `extra=` follow the
message. Nothing that a client may send is logged as it stands: control characters are escaped, so that no key or value
can forge a line. Python's own warnings and errors that nobody has caught go the same way, so that a collector can read
all that a node says.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
import threading
from types import TracebackType
from typing import IO, Any

import orjson

from fastkv.config import LoggingSettings

_KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; the rest of a record came from `extra=`."""


class NodeContext:
    """What the node is at the moment; one for a process, changed on the loop's thread."""

    __slots__ = ("node", "role", "term")

    def __init__(self, node: str = "", term: int = 0, role: str = "Follower") -> None:
        self.node = node
        self.term = term
        self.role = role


_context = NodeContext()


def setup_logging(settings: LoggingSettings, node_id: str, stream: IO[str] | None = None) -> None:
    """Log to stderr, or to `stream`, from now on, and nowhere else."""
    _context.node, _context.term, _context.role = node_id, 0, "Follower"
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(_context) if settings.format == "json" else ConsoleFormatter(_context))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda caught: _log_uncaught(caught.exc_type, caught.exc_value, caught.exc_traceback)


def _log_uncaught(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    if error is not None and not issubclass(kind, KeyboardInterrupt | SystemExit):
        logging.getLogger(__name__).critical("an error that nobody has caught", exc_info=(kind, error, traceback))


def set_node_context(*, term: int, role: str) -> None:
    """Put this term and role on every line from now on."""
    _context.term, _context.role = term, role


def _time(record: logging.LogRecord) -> str:
    when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _KNOWN and value is not None}


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class ConsoleFormatter(logging.Formatter):
    """`node-1 Leader 3 | 2026-01-31T12:00:00.000Z info  message key=value`. A traceback follows on lines of its own."""

    def __init__(self, context: NodeContext) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        context = self._context
        extra = "".join(f" {key}={_printable(str(value))}" for key, value in _fields(record).items())
        level = record.levelname.lower()
        line = (
            f"{context.node} {context.role:<9} {context.term} | {_time(record)} {level:<7} "
            f"{_printable(record.getMessage())}{extra}"
        )
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "node", "role", "term", "logger", "message", …, "exception"}` on one line."""

    def __init__(self, context: NodeContext) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        context = self._context
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "node": context.node,
            "role": context.role,
            "term": context.term,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key, value in _fields(record).items():
            line.setdefault(key, value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:       # lone surrogates, as in a path that is not UTF-8, or integers beyond 64 bits
            return json.dumps(line, default=str)
