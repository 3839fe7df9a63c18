"""The `fastkv` command with `fake_node` in the place of `fastkv serve`; everything else is the real thing."""

from __future__ import annotations

import sys
from pathlib import Path

from fastkv.cli import main
from fastkv.cli.local.plan import Plan

real_command = Plan.command


def fake_command(self: Plan, node_id: str) -> list[str]:
    """`python -m fastkv serve OPTIONS` becomes `python fake_node.py OPTIONS`."""
    command = real_command(self, node_id)
    assert command[:4] == [sys.executable, "-m", "fastkv", "serve"]
    return [sys.executable, str(Path(__file__).with_name("fake_node.py")), *command[4:]]


if __name__ == "__main__":
    Plan.command = fake_command  # type: ignore[method-assign]
    main()
