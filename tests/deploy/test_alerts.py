"""The alert rules: each fires when it should, does not when it should not, and says what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.alert_cases import CASES, Fires, Quiet
from tests.deploy.promtool import ALERTS, DEPLOY, promtool

PAGE = (DEPLOY.parent / "docs" / "metrics.md").read_text()
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
}


def test_rules_and_example_are_valid() -> None:
    assert f"SUCCESS: {len(RULES)} rules found" in promtool("check", "rules", ALERTS)
    promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")


def test_every_alert_has_its_cases_and_its_row() -> None:
    assert set(CASES) == set(RULES)
    for name, cases in CASES.items():
        assert {type(case) for case in cases} == {Fires, Quiet}, name
    rows = re.findall(r"^\| `(Fastkv\w+)` \| .+ \| (\w+) \|$", PAGE, re.MULTILINE)
    assert rows == [(name, rule["labels"]["severity"]) for name, rule in RULES.items()]


@pytest.mark.parametrize("name", RULES)
def test_an_alert_says_what_it_is_and_what_to_do(name: str) -> None:
    annotations = RULES[name]["annotations"]
    assert set(annotations) == {"summary", "description"}
    assert "What to do: " in annotations["description"]
    assert "{{" not in annotations["description"]


def labels_of(written: str) -> dict[str, str]:
    """`{instance=n1,peer=n2}` as labels."""
    return dict(pair.split("=") for pair in written.strip("{}").split(",") if pair)


def as_promtool_has_it(name: str, case: Fires | Quiet) -> dict[str, Any]:
    rule = RULES[name]
    expected = [
        {
            "exp_labels": {"job": "fastkv", "severity": rule["labels"]["severity"], **labels_of(labels)},
            "exp_annotations": {"summary": summary, "description": rule["annotations"]["description"]},
        }
        for labels, summary in (case.summaries.items() if isinstance(case, Fires) else ())
    ]
    return {
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "alert_rule_test": [{"eval_time": case.at, "alertname": name, "exp_alerts": expected}],
    }


@pytest.mark.parametrize("name", RULES)
def test_an_alert_fires_when_it_should_and_only_then(name: str, tmp_path: Path) -> None:
    tests = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "15s",
        "tests": [as_promtool_has_it(name, case) for case in CASES[name]],
    }
    path = tmp_path / "tests.yml"
    path.write_text(yaml.safe_dump(tests))
    assert "SUCCESS" in promtool("test", "rules", path)


def test_a_wrong_expectation_is_noticed(tmp_path: Path) -> None:
    wrong = as_promtool_has_it("FastkvStateDiffers", CASES["FastkvStateDiffers"][0])
    wrong["alert_rule_test"][0]["exp_alerts"] = []
    path = tmp_path / "tests.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": [wrong]}))
    with pytest.raises(pytest.fail.Exception, match="FastkvStateDiffers"):
        promtool("test", "rules", path)
