"""Completion in a real bash, and scripts for the other shells."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastkv.cli import COMMANDS
from fastkv.cli.completion import SHELLS

# What bash does when Tab is pressed: it fills COMP_WORDS and COMP_CWORD and calls the function that was registered.
# Every argument is a line that was typed so far; what is offered comes as a line each.
DRIVE = r"""
set -eu
eval "$(fastkv completion bash)"
registered=$(complete -p fastkv)
[[ $registered =~ -F\ ([A-Za-z_]+) ]]
function=${BASH_REMATCH[1]}
for line in "$@"; do
    IFS=' ' read -ra COMP_WORDS <<<"$line"
    [[ $line == *' ' ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    COMPREPLY=()
    "$function" fastkv
    echo "${COMPREPLY[*]}"
done
"""
OFFERED = {
    "fastkv ": sorted(COMMANDS),
    "fastkv clu": ["cluster"],
    "fastkv cluster s": ["status", "stop"],
    "fastkv get k --cons": ["--consistency"],
    "fastkv get k --consistency l": ["linearizable", "lease"],
    "fastkv completion ": list(SHELLS),
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with the command of the code under test, whatever else is installed here."""
    command = tmp_path / "fastkv"
    root = Path(__file__).parents[2]
    command.write_text(f"#!/bin/sh\nPYTHONPATH={root} exec {sys.executable} -m fastkv \"$@\"\n")
    command.chmod(0o755)
    return tmp_path


def test_bash_completes_commands_options_and_values(directory: Path) -> None:
    done = subprocess.run(
        ["bash", "--norc", "--noprofile", "-c", DRIVE, "bash", *OFFERED],
        env={**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert dict(zip(OFFERED, map(str.split, done.stdout.splitlines()), strict=True)) == OFFERED


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script_that_asks_fastkv(shell: str, directory: Path) -> None:
    done = subprocess.run([directory / "fastkv", "completion", shell], capture_output=True, text=True, check=True)
    assert f"_FASTKV_COMPLETE={shell}_complete" in done.stdout
    assert "%(" not in done.stdout
