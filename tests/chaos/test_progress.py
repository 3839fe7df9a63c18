"""How a run tells how it goes: one line that is written over on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io

import pytest

from fastkv.chaos import progress
from fastkv.chaos.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_line_is_written_over() -> None:
    terminal = Terminal()
    told = Progress(terminal)
    told.state("1 of 9 s")
    told.state("2 of 9 s, much longer")
    told.say("a fault")
    shown = terminal.getvalue()
    assert shown.count("\n") == 1
    assert "\r1 of 9 s" in shown
    assert shown.endswith("\ra fault\n"), "the state is wiped away before a line that stays"
    assert " " * 20 + "\ra fault" in shown


def test_elsewhere_the_state_is_said_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    stream = io.StringIO()
    told = Progress(stream)
    for second in range(25):
        now = 100.0 + second
        told.state(f"{second} of 30 s")
    told.say("a fault")
    assert stream.getvalue().splitlines() == ["10 of 30 s", "20 of 30 s", "a fault"]
