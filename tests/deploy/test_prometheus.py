"""A real Prometheus, configured as the example says, scrapes a real cluster, and answers what is true of it."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import fastkv
from fastkv.chaos.ports import free_ports
from tests.deploy.promtool import ALERTS, DEPLOY, promtool
from tests.deploy.test_alerts import RULES
from tests.deploy.test_dashboard import EXPRESSIONS, as_prometheus_gets_it
from tests.e2e.cluster import Cluster, eventually, running_cluster
from tests.e2e.scrape import Scrape

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

WITHIN_S = 60.0
CONFIG = """
raft:
  election_timeout_ms: 2000
  heartbeat_timeout_ms: 100
"""
RANGE = "[60s]"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes with a leader, which all tests share."""
    with running_cluster(tmp_path_factory.mktemp("scraped"), extra=CONFIG) as started:
        yield started


class Prometheus:
    """A server of our own, on a free port and with its own data."""

    def __init__(self, directory: Path, cluster: Cluster) -> None:
        (self.port,) = free_ports(1)
        self.log_path = directory / "prometheus.log"
        config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(ALERTS)]
        targets = [f"127.0.0.1:{node.http_port}" for node in cluster]
        config["scrape_configs"][0]["static_configs"][0]["targets"] = targets
        path = directory / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        command = ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={directory / 'data'}"]
        command += [f"--web.listen-address=127.0.0.1:{self.port}"]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def stop(self) -> None:
        """SIGTERM, to this process only."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def api(self, path: str, **parameters: str) -> Any:
        """The data of an answer of the HTTP API; None while it does not answer."""
        assert self.process.poll() is None, self.log_path.read_text()
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:       # it is still starting
                return None
            raise AssertionError(f"{url}: {error.read().decode()}") from error
        except OSError:
            return None

    def query(self, expression: str) -> dict[str, float]:
        """The values of an instant query, by instance."""
        data = self.api("query", query=expression)
        found = data["result"] if data else []
        return {sample["metric"].get("instance", ""): float(sample["value"][1]) for sample in found}

    def until(self, expression: str, expected: dict[str, float] | float) -> None:
        """Ask until the answer is as expected; a number stands for a sum over everything."""
        wanted = expected if isinstance(expected, dict) else {"": float(expected)}
        eventually(lambda: self.query(expression) == wanted, within_s=WITHIN_S, what=f"{expression} to be {expected}")


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It has scraped every node."""
    server = Prometheus(tmp_path_factory.mktemp("prometheus"), cluster)
    try:
        server.until("count(up == 1)", 3)
        yield server
    finally:
        server.stop()


def test_promtool_has_nothing_to_say_about_a_scrape(cluster: Cluster) -> None:
    with fastkv.connect(cluster.endpoints) as kv:
        kv.put("a", "1")
        kv.get("a")
    for node in cluster:
        scraped = node.request("GET", "/metrics")[1]
        assert promtool("check", "metrics", stdin=scraped) == ""


def test_it_knows_the_nodes_and_who_leads(cluster: Cluster, prometheus: Prometheus) -> None:
    prometheus.until("sum(up)", 3)
    prometheus.until("sum(fastkv_server_is_leader)", 1)
    prometheus.until("sum(fastkv_server_has_leader)", 3)
    leader = cluster.leader()
    prometheus.until("fastkv_server_is_leader == 1", {f"127.0.0.1:{leader.http_port}": 1})
    prometheus.until("count(fastkv_peer_round_trip_seconds)", 6)
    prometheus.until("count by (job) (fastkv_build_info)", 3)


def test_it_counts_what_clients_do(cluster: Cluster, prometheus: Prometheus) -> None:
    def puts() -> float:
        return sum(Scrape(node).of("requests_total", op="put", code="OK") for node in cluster)

    before = puts()
    with fastkv.connect(cluster.endpoints) as kv:
        for number in range(50):
            kv.put(f"scraped/{number}", "v")
    for number in range(10):
        cluster.leader().put(f"scraped/http/{number}", "v")
    assert puts() >= before + 60
    prometheus.until('sum(fastkv_requests_total{op="put",code="OK"})', puts())
    prometheus.until("min(fastkv_keys)", Scrape(cluster.leader())["keys"])
    prometheus.until("max(fastkv_raft_commit_index) - min(fastkv_raft_applied_index)", 0)


def test_the_dashboard_has_something_to_show(prometheus: Prometheus) -> None:
    """What has no value here is what has not happened: no snapshot was sent, nothing failed."""
    def shown(expression: str) -> bool:
        asked = as_prometheus_gets_it(expression).replace("[5m]", RANGE).replace("[15m]", RANGE)
        return bool(prometheus.query(asked))

    for expression in EXPRESSIONS:
        if 'code!="OK"' not in expression:
            eventually(lambda asked=expression: shown(asked), within_s=WITHIN_S, what=f"a value of {expression}")


def test_a_node_that_is_down_raises_an_alert(cluster: Cluster, prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.api("rules")["groups"] for rule in group["rules"]]
    assert [rule["name"] for rule in rules] == list(RULES)
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}, "unknown: not evaluated yet"
    down = cluster.followers()[0]
    assert down.stop() == 0
    prometheus.until("sum(up)", 2)
    prometheus.until("sum(fastkv_server_is_leader)", 1)

    def pending() -> bool:
        answer = prometheus.api("alerts")
        return any(
            alert["labels"]["alertname"] == "FastkvNodeDown"
            and alert["labels"]["instance"] == f"127.0.0.1:{down.http_port}"
            for alert in (answer["alerts"] if answer else ())
        )

    eventually(pending, within_s=WITHIN_S, what="the alert")
    down.start()
    prometheus.until("sum(up)", 3)
