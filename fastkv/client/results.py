"""What reads answer, and the types that callers may pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Text = str | bytes
"""A key or a value: text is sent as UTF-8."""

ConsistencyName = Literal["linearizable", "lease", "stale"]
"""How fresh a read has to be; see `AsyncClient.get`."""


@dataclass(frozen=True, slots=True)
class Item:
    """A key as it was at one revision. Of a key that does not exist, `value` is None and the numbers are 0."""

    key: bytes
    value: bytes | None
    """The value; None where there is no key, and in scans with `keys_only`."""
    revision: int = 0
    """The cluster's revision at which the key was last written: what `if_revision` takes."""
    version: int = 0
    """How often the key was written since it was created; 1 for a new key."""
    create_revision: int = 0
    """The cluster's revision at which the key was created."""
    lease: int = 0
    """The lease that the key ends with; 0 where there is none."""
    applied_index: int | None = None
    """Of a stale read: how far the answering node had applied the log. None otherwise."""
    age_ms: int | None = None
    """Of a stale read: how long ago the answering node last heard from a leader, in milliseconds. None otherwise."""

    @property
    def exists(self) -> bool:
        """Whether the key exists."""
        return self.revision != 0

    @property
    def text(self) -> str | None:
        """The value as UTF-8 text; UnicodeDecodeError where it is not."""
        return None if self.value is None else self.value.decode()
