"""The log, for whoever wants to look into it: a page of entries, each described in plain values.

Used for a node that runs and for the files of one that does not. Nothing here is on the way of a request.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from fastkv.kv.commands import describe
from fastkv.log_types import Segment

PAGE_BYTES = 1 << 20
"""About how much of the log is read for one page: a node that runs reads it on its loop."""


def first_of_page(first: int, limit: int, base_index: int, last_index: int) -> int:
    """Where a page of `limit` entries begins: at `first`, or so that it ends with the newest where that is 0.

    What was cut away, up to `base_index`, is skipped.
    """
    return max(first or last_index - limit + 1, base_index + 1)


def described(segments: Iterable[Segment]) -> list[dict[str, Any]]:
    """Each entry as `{"index", "term", "kind", "bytes"}`, and of a write `key` (or `key_base64`) and `if_revision`."""
    entries = []
    for segment in segments:
        for index, entry in enumerate(segment.batch.entries(), segment.first_index):
            said = describe(entry)
            line: dict[str, Any] = {"index": index, "term": segment.term, "kind": said.name, "bytes": said.nbytes}
            if said.key:
                line.update(_as_text(said.key))
                line["value_bytes"] = len(said.value)
            if said.compare is not None:
                line["if_revision"] = said.compare
            entries.append(line)
    return entries


def _as_text(key: bytes) -> dict[str, str]:
    try:
        return {"key": key.decode()}
    except UnicodeDecodeError:
        return {"key_base64": base64.b64encode(key).decode()}
