"""The man page, docs/cli.md and the tables of settings: made from the code, whole, and well formed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from fastkv.cli import cli
from fastkv.cli.manual.configuration import rewritten
from fastkv.cli.manual.described import Command, commands
from fastkv.config import ENVIRONMENT

EVERY = list(commands(cli))


def printed(*options: str) -> str:
    result = CliRunner().invoke(cli, ["man", *options], prog_name="fastkv")
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page as `man` shows it; what groff complains of fails the test."""
    path = tmp_path_factory.mktemp("man") / "fastkv.1"
    path.write_text(printed())
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-rLL=250n", "-P-cbou", path], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return " ".join(done.stdout.replace("\N{HYPHEN}", "-").replace("\N{MINUS SIGN}", "-").split())


def test_there_is_something_to_describe() -> None:
    assert len(EVERY) > 25
    assert {"fastkv", "fastkv get", "fastkv cluster up"} <= {command.name for command in EVERY}


@pytest.mark.parametrize("command", EVERY[1:], ids=[command.name for command in EVERY[1:]])
def test_the_man_page_has_every_command_with_its_options_and_example(command: Command, shown: str) -> None:
    assert f"{command.name} {command.usage}".replace("…", "...") in shown
    assert command.examples
    for line in command.examples:
        assert " ".join(line.split()) in shown
    for option in command.options:
        assert option.is_help or option.spelling.replace("…", "...") in shown


def test_the_man_page_says_what_statuses_and_variables_mean(shown: str) -> None:
    assert all(variable in shown for variable in [*ENVIRONMENT.values(), "FASTKV_ENDPOINTS"])
    assert "5 unknown: the write may or may not have been done" in shown


def test_the_page_of_the_documentation_is_that_of_the_commands() -> None:
    page = (Path(__file__).parents[2] / "docs/cli.md").read_text()
    assert page == printed("--markdown"), "scripts/docs.sh update writes it anew"


def test_the_tables_of_settings_are_those_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs/configuration.md").read_text()
    assert rewritten(page) == page, "scripts/docs.sh update writes it anew"
    lost = page.replace(next(line for line in page.splitlines() if "`raft.max_append_bytes`" in line) + "\n", "")
    spoilt = lost.replace("| 100 | ms |", "| 7 | ms |")
    assert rewritten(spoilt) == page
    with pytest.raises(ValueError, match="no table for tracing"):
        rewritten(page.replace("`tracing.", "`traced."))
