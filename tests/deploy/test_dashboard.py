"""The Grafana dashboard: valid, laid out without overlaps, and every expression asks for metrics that there are."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.promtool import DEPLOY, parses
from tests.server.test_metrics import PROMISED

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "fastkv.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel.get("targets", ())]
VARIABLES = {"$job": "fastkv", "$instance": ".*", "$__rate_interval": "5m"}


def as_prometheus_gets_it(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def asked_for(text: str) -> set[str]:
    """The metrics in a text of rules or expressions, without what a histogram or counter adds to its name."""
    names = set(re.findall(r"\bfastkv_(\w+)", text))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def test_every_expression_parses(tmp_path: Path) -> None:
    assert len(EXPRESSIONS) > 25
    expressions = [as_prometheus_gets_it(expression) for expression in EXPRESSIONS]
    assert not any("$" in expression for expression in expressions), "a variable that nobody defines"
    parses(tmp_path, expressions)


def test_an_expression_that_does_not_parse_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="parse"):
        parses(tmp_path, ["sum(rate(fastkv_requests_total[5m])"])


@pytest.mark.parametrize("path", ["grafana/fastkv.json", "prometheus/alerts.yml"])
def test_only_metrics_that_there_are_are_asked_for(path: str) -> None:
    asked = asked_for((DEPLOY / path).read_text())
    assert len(asked) > 10
    assert asked <= set(PROMISED)


def test_panels_have_titles_units_and_places_of_their_own() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    taken: dict[tuple[int, int], str] = {}
    for panel in PANELS:
        assert panel["title"]
        place = panel["gridPos"]
        for x, y in itertools.product(range(place["w"]), range(place["h"])):
            at = place["x"] + x, place["y"] + y
            assert at[0] < 24
            assert taken.setdefault(at, panel["title"]) == panel["title"]
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert [target["refId"] for target in panel["targets"]] == sorted({t["refId"] for t in panel["targets"]})


def test_variables_are_defined() -> None:
    defined = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$(?!__)(\w+)", json.dumps(DASHBOARD)))
    assert used == defined == {"datasource", "job", "instance"}
