"""What the files for Compose, Kubernetes and systemd say agrees with the image, with the schemas, and with the code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fastkv.config import NodeConfig, load_config
from fastkv.version import __version__
from tests.deploy.composed import ROOT, SERVICES
from tests.e2e.cluster import Cluster, running_cluster

IMAGE = f"fastkv:{__version__}"
MANIFESTS = sorted((ROOT / "kubernetes").glob("*.yaml"))
UNIT = ROOT / "deploy" / "systemd" / "fastkv.service"


def documents() -> list[dict[str, Any]]:
    """Every Kubernetes resource; not the list of files for kustomize."""
    parsed = [document for path in MANIFESTS for document in yaml.safe_load_all(path.read_text())]
    return [document for document in parsed if document["kind"] != "Kustomization"]


def resource(kind: str, name: str = "kvstore") -> dict[str, Any]:
    (found,) = [one for one in documents() if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


POD = resource("StatefulSet")["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


# -- the image's packages ----------------------------------------------------------------------------------------------


def test_the_image_s_packages_are_pinned_by_hash_and_are_what_the_project_asks_for() -> None:
    text = (ROOT / "deploy" / "docker" / "requirements.txt").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE))
    assert len(pins) == text.count("==")
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    for asked in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        requirement = Requirement(asked)
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), asked


# -- Compose -----------------------------------------------------------------------------------------------------------


def configured(name: str, **environment: str) -> NodeConfig:
    return load_config(ROOT / "deploy" / "docker" / name, environment, {})


def test_three_nodes_with_the_ports_that_are_promised() -> None:
    assert tuple(COMPOSE["services"]) == SERVICES
    for number, service in enumerate(COMPOSE["services"].values(), 1):
        http, raft = service["ports"]
        assert http == f"${{KVSTORE_BIND:-127.0.0.1}}:${{KVSTORE_HTTP_PORT_{number}:-{8080 + number}}}:{8080 + number}"
        assert raft == f"${{KVSTORE_BIND:-127.0.0.1}}:${{KVSTORE_RAFT_PORT_{number}:-{9000 + number}}}:{9000 + number}"
        assert service["image"] == f"${{KVSTORE_IMAGE:-{IMAGE}}}"
        assert service["healthcheck"]["test"] == ["CMD", "fastkv-healthcheck"]
        assert service["deploy"]["replicas"] == 1
        (volume,) = service["volumes"]
        assert volume.split(":") == [f"kvstore-data-{number}", "/var/lib/fastkv"]


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_service_is_told_is_what_the_others_expect(service: str) -> None:
    environment = COMPOSE["services"][service]["environment"]
    config = configured("compose.yaml", **{k: v for k, v in environment.items() if k != "KV_CONFIG"})
    own = config.cluster.nodes[config.node_id]
    assert config.node_id == service.removeprefix("kvstore-")
    assert (own.raft.host, own.http.host) == (service, service)
    assert (config.server.raft_port, config.server.http_port) == (own.raft.port, own.http.port)
    assert environment["KV_CONFIG"] == "/etc/fastkv/compose.yaml"
    endpoints = {str(node.raft) for node in config.cluster.nodes.values()}
    assert set(environment["FASTKV_ENDPOINTS"].split(",")) == endpoints


def test_one_node_in_a_container() -> None:
    config = configured("single-node.yaml")
    assert (config.node_id, config.server.raft_port, config.server.http_port) == ("node-1", 9001, 8081)


@pytest.mark.parametrize("name", ["compose.yaml", "single-node.yaml"])
def test_a_file_that_opens_a_node_says_why_that_is_insecure(name: str) -> None:
    text = (ROOT / "deploy" / "docker" / name).read_text()
    said = re.search(r"((?:  #.*\n)+)  insecure: true\n", text)
    assert said
    assert "There is no TLS and no authentication yet" in said[1]


# -- Kubernetes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.29", "1.37"])
@pytest.mark.parametrize("one", documents(), ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_a_resource_is_as_its_schema_says(one: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(one, version, strict=True)


def test_the_schemas_would_notice() -> None:
    wrong = resource("StatefulSet")
    wrong["spec"]["replicas"] = "three"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


def test_kustomize_is_given_every_file() -> None:
    listed = yaml.safe_load((ROOT / "kubernetes" / "kustomization.yaml").read_text())["resources"]
    assert {*listed, "kustomization.yaml"} == {path.name for path in MANIFESTS}


def run_in_pod(script: str, pod: str, **environment: str) -> str:
    done = subprocess.run(
        ["bash", "-ec", script], env={**os.environ, "POD_NAME": pod, **environment}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("ordinal", [0, 1, 2])
def test_a_pod_s_ordinal_is_its_node(ordinal: int, tmp_path: Path) -> None:
    """The container's own command, with another program in fastkv's place; and the ConfigMap, read as fastkv does."""
    (tmp_path / "fastkv").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "fastkv").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert CONTAINER["command"] == ["/bin/bash", "-ec"]
    said = run_in_pod(CONTAINER["args"][0], f"kvstore-{ordinal}", PATH=path).split()
    assert said[:3] == ["serve", "--config", "/etc/kvstore/cluster.yaml"]
    (tmp_path / "cluster.yaml").write_text(resource("ConfigMap")["data"]["cluster.yaml"])
    config = load_config(tmp_path / "cluster.yaml", {}, {"node_id": said[4]})
    headless = resource("Service", "kvstore-peers")
    name = f"kvstore-{ordinal}.{headless['metadata']['name']}"
    assert config.cluster.nodes[config.node_id].raft == (name, config.server.raft_port)
    assert config.cluster.nodes[config.node_id].http == (name, config.server.http_port)
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert ports == {"raft": config.server.raft_port, "http": config.server.http_port}
    assert len(config.cluster.nodes) == resource("StatefulSet")["spec"]["replicas"]


def test_services_and_budget_find_the_pods() -> None:
    headless, client = resource("Service", "kvstore-peers"), resource("Service")
    labels = resource("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert headless["spec"]["clusterIP"] == "None"
    assert headless["spec"]["publishNotReadyAddresses"] is True
    assert "publishNotReadyAddresses" not in client["spec"]
    assert resource("StatefulSet")["spec"]["serviceName"] == headless["metadata"]["name"]
    for selector in (
        headless["spec"]["selector"],
        client["spec"]["selector"],
        resource("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        resource("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    assert resource("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_probes_ask_what_they_are_for() -> None:
    assert CONTAINER["image"] == IMAGE
    paths = {name: CONTAINER[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}


@pytest.fixture
def patient_cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path, extra="raft: {election_timeout_ms: 10000, heartbeat_timeout_ms: 500}\n") as started:
        yield started


@pytest.mark.e2e
def test_before_a_pod_stops_another_node_leads(patient_cluster: Cluster) -> None:
    """The hook's own command, run as in the pod of the leader, and then as in that of a follower."""
    shell, option, script = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert (shell, option) == ("/bin/bash", "-c")
    assert "sleep 5\n" in script
    script = script.replace("sleep 5\n", "").replace("--timeout 10", "--timeout 60")
    before = patient_cluster.leader()

    def stops(node_id: str) -> None:
        node = patient_cluster.nodes[node_id]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        run_in_pod(script, f"kvstore-{int(node_id[5:]) - 1}", FASTKV_ENDPOINTS=node.endpoint, PATH=path)

    stops(before.node_id)
    after = patient_cluster.leader()
    assert after is not before
    stops(before.node_id)
    assert patient_cluster.leader() is after


# -- systemd -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze: apt-get install systemd")
def test_systemd_has_nothing_to_say_about_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text()
    program = re.search(r"^ExecStart=(\S+) serve ", text, re.MULTILINE)
    assert program
    (tmp_path / "fastkv.service").write_text(text.replace(program[1], "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "fastkv.service")], capture_output=True, text=True, timeout=120,
        check=False, env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )  # fmt: skip
    assert (done.returncode, [line for line in done.stderr.splitlines() if "fastkv.service" in line]) == (0, [])


def test_the_unit_waits_for_readiness_and_a_clean_stop() -> None:
    settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE))
    assert (settings["Type"], settings["User"], settings["Restart"]) == ("notify", "fastkv", "on-failure")
    assert int(settings["TimeoutStopSec"]) >= 30
    given = dict(re.findall(r"^(\w+)=(.*)$", (UNIT.parent / "environment").read_text(), re.MULTILINE))
    assert given == {"RAFT_NODE_ID": "node-1"}
