"""One operation of a history: who asked for what, when, and what came of it.

Five kinds, with the names that a history file uses. What each is asked with and answers:

| f    | asked with                       | answers, with `revision`                                                 |
|------|----------------------------------|--------------------------------------------------------------------------|
| get  |                                  | the value, or None where there is no key; the revision that wrote it, or 0 |
| put  | a value                          | True; the new revision                                                   |
| cas  | the revision expected, a value   | True; the new revision. False where the key has another; that one, or 0  |
| del  |                                  | True; the new revision. False where there is no key; 0                   |
| incr | how much                         | the sum; the new revision                                                |

A key that does not exist counts from 0. The sum is stored as decimal text: a get of it answers that text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FUNCTIONS: Final = ("get", "put", "cas", "del", "incr")
WRITES: Final = frozenset({"put", "cas", "del", "incr"})

FOREVER: Final = 1 << 62
"""When an operation with an open outcome returned: it may have been done, and may still be done at any later time."""
UNSEEN: Final = -1
"""A revision that nobody was told."""


@dataclass(slots=True)
class Operation:
    """One call and its answer. Times are any growing numbers; in a history file they are monotonic nanoseconds.

    The outcome is open (`returned` is FOREVER) where no answer came, and where the answer was that it is unknown.
    """

    client: str
    key: str
    f: str
    called: int
    returned: int
    argument: str | int | None = None
    """The value that put and cas write, or how much incr adds."""
    expected: int = 0
    """The revision that a cas asks for; 0: there is no key."""
    outcome: str | int | bool | None = None
    revision: int = UNSEEN
    node: str | None = None
    """Who was asked, or who answered where that is known to be another."""
    term: int | None = None
    """The term in which the answer was given, where it says so."""
    op_id: int = 0
    failed: bool = False
    """It was certainly not done, and never will be."""

    @property
    def open(self) -> bool:
        """Whether nobody knows what came of it."""
        return self.returned == FOREVER
