"""docs/failures.md has a row for every alert, every error code and every exit status of a node."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from fastkv.cli.advice import ADVICE
from fastkv.server.runtime import EXIT_BROKEN, EXIT_FAILED
from tests.server.http.test_docs import documented

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "failures.md").read_text()
ROWS = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
ALERTS = [
    rule["alert"]
    for group in yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
CODES = sorted({*ADVICE, *(code for _, code in documented())})


def rows(name: str) -> list[list[str]]:
    return [row for row in ROWS if f"`{name}`" in row[0]]


@pytest.mark.parametrize("name", [*ALERTS, *CODES])
def test_what_may_be_seen_has_a_row_that_says_what_to_do(name: str) -> None:
    found = rows(name)
    assert found, f"{name} is not explained"
    for row in found:
        assert len(row[-1]) > 3 or name in ("KEY_NOT_FOUND", "ERROR"), f"{name}: nothing to do?"


def test_no_row_is_about_what_there_is_not() -> None:
    known = {*ALERTS, *CODES}
    named = {name for row in ROWS for name in re.findall(r"`([A-Z][A-Z_]{3,}|Fastkv\w+)`", row[0])}
    assert named <= known


def test_statuses_over_http_are_those_of_the_page_on_http() -> None:
    of_code: dict[str, set[int]] = {}
    for status, code in documented():
        of_code.setdefault(code, set()).add(status)
    for row in ROWS:
        codes = re.findall(r"`([A-Z][A-Z_]{3,})`", row[0])
        if len(row) > 1 and re.fullmatch(r"\d{3}(, \d{3})*", row[1]):
            assert set(map(int, row[1].split(", "))) == set().union(*(of_code[code] for code in codes)), row[0]


def test_exit_statuses() -> None:
    assert {row[0] for row in ROWS if row[0].isdigit()} == {"0", str(EXIT_FAILED), "2", str(EXIT_BROKEN)}
