"""What a person needs to understand a failure: what happened to the cluster, what was said last, what clients saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkv._core.append import parse_append
from fastkv._core.codes import Opcode
from fastkv.chaos.lines import window_lines
from fastkv.chaos.window import smallest_window
from fastkv.raft import messages
from fastkv.wire.peer import RAFT_BODY, REJECT
from tests.sim.events import MS
from tests.sim.promises import FRAME_HEADER_BYTES
from tests.sim.truth import Violation

if TYPE_CHECKING:
    from tests.sim.world import World

JOURNAL_LINES = 40
MESSAGE_LINES = 30
NUMBERS = [(value, name) for name, value in vars(messages).items() if name.isupper() and isinstance(value, int)]
KINDS = dict(reversed(NUMBERS))         # kinds are the first numbers of that file


def report(world: World, violation: Violation) -> str:
    """All of it, as text."""
    parts = [f"{violation}", f"plan: {world.plan}", "what happened:", *_last(world.journal, JOURNAL_LINES)]
    if violation.key:
        parts += ["what clients saw that cannot be:", *history_lines(world, violation.key)]
    else:
        parts += ["the last messages:", *message_lines(world)]
    return "\n".join(parts)


def _last(lines: list[str], count: int) -> list[str]:
    left_out = len(lines) - count
    return ([f"          … {left_out} lines before"] if left_out > 0 else []) + lines[-count:]


# -- messages ----------------------------------------------------------------------------------------------------------


def message_lines(world: World) -> list[str]:
    """The last frames that nodes sent, whether they arrived or not."""
    return [
        f"{at / MS:>11.3f} ms  {sender} -> {receiver}  {describe(frame)}"
        for at, sender, receiver, frame in list(world.trace)[-MESSAGE_LINES:]
    ]


def describe(frame: bytes) -> str:
    """One frame between nodes, in words."""
    opcode, body = frame[4], frame[FRAME_HEADER_BYTES:]
    if opcode == Opcode.RAFT:
        return _describe_raft(body)
    if opcode == Opcode.APPEND:
        term, index, log_term, commit, _, _, batches = parse_append(body)
        runs = ", ".join(f"{batch.count} of term {batch_term}" for batch_term, batch in batches)
        return f"APPEND term {term}: behind entry {index} of term {log_term}: {runs or 'nothing'}; commit {commit}"
    return f"{Opcode(opcode).name}, {len(body)} bytes"


def _describe_raft(body: bytes) -> str:
    kind, flags, _, _, term, index, log_term, commit, hint_index, hint_term, context, _ = RAFT_BODY.unpack(body)
    fields = {
        "index": index, "log term": log_term, "commit": commit, "hint": hint_index, "hint term": hint_term,
        "context": context,
    }  # fmt: skip
    said = "".join(f", {name} {value}" for name, value in fields.items() if value)
    return f"{KINDS.get(kind, kind)} term {term}{', refused' if flags & REJECT else ''}{said}"


# -- the history -------------------------------------------------------------------------------------------------------


def history_lines(world: World, key: str) -> list[str]:
    """The smallest part of a key's history that cannot be."""
    window = smallest_window(op for op in world.history if op.key == key)
    return [f"  {line}" for line in window_lines(window, per_ms=MS)]
