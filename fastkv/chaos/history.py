"""Histories as files: what clients asked and were told, a JSON object a line, written as it happens.

```
{"client":"c1","op_id":7,"t":81230945,"ev":"invoke","f":"cas","key":"k3","in":[41,"c1-7"],"out":null,"node":"node-2",…}
{"client":"c1","op_id":7,"t":82911007,"ev":"ok","f":"cas","key":"k3","in":null,"out":true,"node":"node-2","rev":57,…}
```

Every line has the eleven fields of `FIELDS`; what is not known is null. `ev` is one of:

* `invoke`: the request is about to be sent. `in` is what it is asked with: null for get and del, the value for put,
  [revision expected, value] for cas, how much for incr.
* `ok`: it was answered. `out` and `rev` are as `operations` says; `rev` may be null only for a del.
* `fail`: it was provably not done, and never will be.
* `info`: nobody knows. It stays open for ever, and its client goes on under another name. So does what has no answer
  when the history ends.

Values are text. A checker is fastest where no value is written twice to one key.
"""

from __future__ import annotations

import itertools
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from fastkv.chaos.operations import FOREVER, FUNCTIONS, UNSEEN, Operation
from fastkv.errors import FastKVError

FIELDS = ("client", "op_id", "t", "ev", "f", "key", "in", "out", "node", "rev", "term")
Input = str | int | list[int | str] | None
Output = str | int | bool | None
LIFE = re.compile(r"^(.*)\.(\d+)$")
ANSWERS = ("ok", "fail", "info")
FIELD_SET = frozenset(FIELDS)
NONE = type(None)
TYPES: dict[str, tuple[type, ...]] = {
    "client": (str,), "op_id": (int,), "t": (int,), "ev": (str,), "f": (str,), "key": (str,),
    "node": (str, NONE), "rev": (int, NONE), "term": (int, NONE),
}  # fmt: skip
INPUTS: dict[str, type] = {"get": NONE, "put": str, "del": NONE, "incr": int}
OUTPUTS: dict[str, tuple[type, ...]] = {
    "get": (str, NONE), "put": (bool,), "cas": (bool,), "del": (bool,), "incr": (int,),
}  # fmt: skip


class HistoryError(FastKVError):
    """A history that cannot be one, and the line that shows it."""

    code = "INVALID_HISTORY"

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


def _check_function(f: str) -> None:
    if f not in FUNCTIONS:
        raise ValueError(f"'f' cannot be {f!r}; it is one of {', '.join(FUNCTIONS)}")


def _check_input(f: str, value: object) -> None:
    if f == "cas":
        fits = isinstance(value, list) and [type(part) for part in value] == [int, str] and value[0] >= 0
    else:
        fits = type(value) is INPUTS[f]
    if not fits:
        raise ValueError(f"'in' of a {f} cannot be {value!r}")


def _check_output(f: str, out: object, revision: int | None) -> None:
    if type(out) not in OUTPUTS[f] or (f == "put" and out is not True):
        raise ValueError(f"'out' of a {f} cannot be {out!r}")
    if revision is None and f != "del":
        raise ValueError(f"the answer to a {f} has a 'rev'")


class Recorder:
    """Writes a history. Any thread may use it; a line is in the file when the call that wrote it returns.

    FileExistsError where the file is there: two runs are two histories.
    """

    def __init__(self, path: Path | str, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.path = Path(path)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._clock = clock
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._open: dict[int, tuple[str, str, str]] = {}

    def invoke(self, client: str, f: str, key: str, value: Input = None, *, node: str | None = None) -> int:
        """An operation is about to be sent; the number to answer it by. `value` is the line's `in`."""
        _check_function(f)
        _check_input(f, value)
        with self._lock:
            op_id = next(self._numbers)
            self._open[op_id] = (client, f, key)
            self._write(client, op_id, "invoke", f, key, value, None, node, None, None)
        return op_id

    def ok(
        self, op_id: int, out: Output = None, *, rev: int | None = None, node: str | None = None,
        term: int | None = None,
    ) -> None:  # fmt: skip
        """It was answered. `rev` is the revision that the answer carries, and may be left out only for a del."""
        self._answer(op_id, "ok", out, node, rev, term)

    def fail(self, op_id: int, *, node: str | None = None, term: int | None = None) -> None:
        """It was provably not done, and never will be. Where that is not certain, it is `info`."""
        self._answer(op_id, "fail", None, node, None, term)

    def info(self, op_id: int, *, node: str | None = None, term: int | None = None) -> str:
        """Nobody knows whether it was done. Returns the name under which its client goes on."""
        client = self._answer(op_id, "info", None, node, None, term)
        life = LIFE.match(client)
        return f"{life[1]}.{int(life[2]) + 1}" if life else f"{client}.1"

    def close(self) -> None:
        """What has no answer now stays open for ever."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(
        self, op_id: int, ev: str, out: Output, node: str | None, rev: int | None, term: int | None
    ) -> str:
        with self._lock:
            if op_id not in self._open:
                raise ValueError(f"operation {op_id} was never begun, or has its answer")
            client, f, key = self._open[op_id]
            if ev == "ok":
                _check_output(f, out, rev)
            del self._open[op_id]
            self._write(client, op_id, ev, f, key, None, out, node, rev, term)
        return client

    def _write(self, client: str, op_id: int, ev: str, *rest: object) -> None:
        """One line, with one call: what a crash can cut off is the last one only."""
        line = orjson.dumps(dict(zip(FIELDS, (client, op_id, self._clock(), ev, *rest), strict=True))) + b"\n"
        while line:
            line = line[os.write(self._file, line) :]


def read_history(path: Path | str) -> list[Operation]:
    """The operations of a history file in the order of their calls; those that failed are among them, and say so.

    HistoryError for the first line that no recorder would have written; OSError where the file cannot be read.
    """
    reader = _Reader()
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                reader.add(_parsed(line))
            except ValueError as error:
                raise HistoryError(number, str(error)) from None
    return sorted(reader.operations.values(), key=lambda op: op.called)


def _parsed(line: bytes) -> dict[str, Any]:
    """A line's fields, each of the type that it has to have."""
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        if not line.endswith(b"\n"):
            raise ValueError("the file ends in the middle of this line, as after a crash; remove it to check the rest"
                             ) from None
        raise ValueError(f"no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    if fields.keys() != FIELD_SET:
        missing, unknown = sorted(FIELD_SET - fields.keys()), sorted(fields.keys() - FIELD_SET)
        raise ValueError(f"no field {missing[0]!r}" if missing else f"no field is called {unknown[0]!r}")
    for name, types in TYPES.items():
        if type(fields[name]) not in types:
            raise ValueError(f"{name!r} cannot be {fields[name]!r}")
    if (fields["rev"] or 0) < 0 or (fields["term"] or 0) < 0:
        raise ValueError("'rev' and 'term' cannot be negative")
    return fields


class _Reader:
    """Pairs answers with what they answer."""

    def __init__(self) -> None:
        self.operations: dict[int, Operation] = {}
        self._under_way: dict[str, int] = {}
        self._times: dict[str, int] = {}
        self._gone: set[str] = set()

    def add(self, line: dict[str, Any]) -> None:
        """ValueError where a line cannot follow on those before."""
        client, t, ev = line["client"], line["t"], line["ev"]
        if t < self._times.get(client, t):
            raise ValueError(f"time goes back: client {client!r} was at {self._times[client]} already")
        self._times[client] = t
        _check_function(line["f"])
        if ev == "invoke":
            self._invoke(line)
        elif ev in ANSWERS:
            self._answer(line)
        else:
            raise ValueError(f"'ev' cannot be {ev!r}; it is one of invoke, {', '.join(ANSWERS)}")

    def _invoke(self, line: dict[str, Any]) -> None:
        client, op_id, f, value = line["client"], line["op_id"], line["f"], line["in"]
        if op_id in self.operations:
            raise ValueError(f"there was an operation {op_id} already")
        if client in self._under_way:
            raise ValueError(f"client {client!r} has operation {self._under_way[client]} under way")
        if client in self._gone:
            raise ValueError(f"client {client!r} goes on after an operation of unknown outcome; it needs a new name")
        _check_input(f, value)
        expected, argument = value if f == "cas" else (0, value)
        self._under_way[client] = op_id
        self.operations[op_id] = Operation(
            client, line["key"], f, line["t"], FOREVER, argument, expected, node=line["node"], op_id=op_id
        )

    def _answer(self, line: dict[str, Any]) -> None:
        op_id, ev = line["op_id"], line["ev"]
        op = self.operations.get(op_id)
        if op is None:
            raise ValueError(f"an answer to operation {op_id}, which was never invoked")
        if (line["client"], line["f"], line["key"]) != (op.client, op.f, op.key):
            raise ValueError(f"operation {op_id} was a {op.f} of {op.key!r} by client {op.client!r}")
        if self._under_way.get(op.client) != op_id:
            raise ValueError(f"a second answer to operation {op_id}")
        del self._under_way[op.client]
        op.node = line["node"] or op.node
        op.term = line["term"]
        if ev == "ok":
            out, revision = line["out"], line["rev"]
            _check_output(op.f, out, revision)
            op.returned, op.outcome = line["t"], out
            op.revision = UNSEEN if revision is None else revision
        elif ev == "fail":
            op.returned, op.failed = line["t"], True
        else:
            self._gone.add(op.client)
