"""What holds for every command: `--json`, `--endpoints` where it asks a cluster, a word to who mistypes it."""

from __future__ import annotations

import pytest

from tests.cli.test_commands import every_command, run

WITHOUT_A_CLUSTER = {
    "serve", "cluster up", "cluster stop", "chaos", "check", "repair", "snapshot status", "snapshot restore",
    "completion", "man", "version",
}  # fmt: skip
NO_ANSWER = {"serve", "completion", "man"}
"""What they print is no answer: the log of a node (--log-format json), a script, a page."""


@pytest.mark.parametrize("command", list(every_command()), ids=" ".join)
def test_every_command_takes_json_and_where_it_asks_a_cluster_endpoints(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    if "COMMAND [ARGS]" in result.stdout:
        return
    assert ("--json" in result.stdout) == (command[0] not in NO_ANSWER)
    if " ".join(command) not in WITHOUT_A_CLUSTER and command[0] not in WITHOUT_A_CLUSTER:
        assert "--endpoints" in result.stdout
        assert "FASTKV_ENDPOINTS" in result.stdout


def test_a_command_that_is_nearly_one_is_named() -> None:
    assert "Did you mean 'get'?" in run("gte", "k").stderr
    assert "Did you mean" not in run("frobnicate").stderr
