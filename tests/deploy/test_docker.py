"""The image is built and Compose brought up by a real engine; then the README's walk, and a killed and a cut-off node.

Where there is no engine and none can be started, or no base image is to be had, this is skipped, and says why.
"""

from __future__ import annotations

import http.client
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest

import fastkv
from fastkv.version import __version__
from tests.deploy.base_image import base_image
from tests.deploy.composed import ROOT, SERVICES, WITHIN_S, Composed, composed
from tests.deploy.engine import Engine, EngineUnavailable, compose_command, running_engine
from tests.e2e.cluster import eventually
from tests.e2e.test_readme import walk_through

# The image is made in the first test's setup: with debootstrap and a compiler, on a machine that may be busy.
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(2400)]

BUILD_LIMIT_S = 1800.0
IMAGE_LIMIT_BYTES = 120_000_000
UNREACHABLE = re.compile(
    r"Could not fetch URL|NewConnectionError|Temporary failure|Failed to fetch|Could not connect|Could not resolve"
)


def skip_loudly(reason: object) -> NoReturn:
    """In the summary of skipped tests, and among the warnings."""
    text = f"DOCKER IS NOT TESTED: {reason}"
    warnings.warn(text, stacklevel=2)
    pytest.skip(text)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("docker")


@pytest.fixture(scope="module")
def engine(directory: Path) -> Iterator[Engine]:
    """An engine with Compose and the base image, whose containers run."""
    with ExitStack() as held:
        try:
            engine = held.enter_context(running_engine(directory))
            compose_command(engine)
            kind = held.enter_context(base_image(engine, directory))
            trial = engine.run("docker", "run", "--rm", "--network=none", "debian:bookworm-slim", "true", check=False)
            if trial.returncode:
                raise EngineUnavailable(f"the engine runs no container: {trial.stderr.strip()[-500:]}")
        except EngineUnavailable as reason:
            skip_loudly(reason)
        print(f"base image: {kind}, {size(engine, 'debian:bookworm-slim') / 1e6:.1f} MB")
        yield engine


def size(engine: Engine, image: str) -> int:
    return int(engine.docker("image", "inspect", "--format", "{{.Size}}", image))


@pytest.fixture(scope="module")
def image(engine: Engine, directory: Path) -> Iterator[str]:
    """The image as the Dockerfile makes it, of this very source."""
    name = f"fastkv-test:{directory.name}"
    command = ["docker", "build", "--network=host", "--force-rm", "--tag", name, str(ROOT)]
    # The old builder is in every engine; the other one needs a plugin with some clients.
    done = engine.run(*command, check=False, limit_s=BUILD_LIMIT_S, DOCKER_BUILDKIT="0")
    if done.returncode and (found := UNREACHABLE.search(done.stdout + done.stderr)):
        skip_loudly(f"the build reaches no package index ({found[0]})")
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    yield name
    engine.docker("rmi", "--force", name, check=False)


@pytest.fixture(scope="module")
def cluster(engine: Engine, image: str, directory: Path) -> Iterator[Composed]:
    with composed(engine, image, directory) as up:
        yield up


@pytest.fixture(autouse=True)
def _told(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the containers said, with the report of a test that failed."""
    yield
    if "cluster" in request.fixturenames:
        print(request.getfixturevalue("cluster").logs())


def test_the_image_is_small_and_has_only_what_a_node_needs(engine: Engine, image: str) -> None:
    print(f"image: {size(engine, image) / 1e6:.1f} MB")
    assert size(engine, image) <= IMAGE_LIMIT_BYTES
    looked = engine.docker(
        "run", "--rm", "--network=none", "--entrypoint=bash", image, "-c",
        r"""id -u; command -v gcc cc pip pip3 curl; find /usr/local /src /build /wheels 2>/dev/null \( -name '*.pyx' \
        -o -name '*.c' -o -name pip -o -name setuptools -o -name Cython -o -name tests \) ; ls /var/lib/apt/lists; \
        find / -xdev -writable -type f 2>/dev/null | grep -Ev '^/(proc|sys|dev)/'; true""",
    )  # fmt: skip
    assert looked == "10001", "another user, a tool, a source, or a file that the node could change"


def test_the_image_says_what_it_is(engine: Engine, image: str) -> None:
    assert engine.docker("run", "--rm", "--network=none", image, "version").startswith(f"fastkv {__version__} ")
    config = json.loads(engine.docker("image", "inspect", "--format", "{{json .Config}}", image))
    assert (config["User"], config["StopSignal"]) == ("fastkv", "SIGTERM")
    assert config["Healthcheck"]["Test"] == ["CMD", "fastkv-healthcheck"]
    assert config["ExposedPorts"].keys() == {"8081/tcp", "9001/tcp"}


def test_bad_settings_end_a_container_with_a_line_that_says_so(engine: Engine, image: str) -> None:
    for arguments, said in (
        (("--env", "KV_HTTP_PORT=http"), "KV_HTTP_PORT"),
        (("--env", "KV_CONFIG=/etc/fastkv/compose.yaml"), "RAFT_NODE_ID"),
        (("--env", "KV_HOST=0.0.0.0"), "security.insecure"),
    ):
        done = engine.run("docker", "run", "--rm", "--network=none", *arguments, image, check=False)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr


def test_the_walk_of_the_readme(cluster: Composed) -> None:
    cluster.leader()
    for node_id in cluster.nodes:
        eventually(lambda node_id=node_id: "Unknown" not in states(cluster, node_id), within_s=WITHIN_S, what=node_id)
        print(f"{node_id}: healthy {cluster.seconds_until_healthy(node_id):.2f} s after its start")
    walk_through(cluster.nodes.values())
    with fastkv.connect(",".join(node.endpoint for node in cluster.nodes.values()), timeout=60) as kv:
        kv.put("from/outside", b"the leader's own name leads nowhere here")
        assert kv.get("from/outside").value == b"the leader's own name leads nowhere here"


def test_commands_within_a_container(engine: Engine, cluster: Composed) -> None:
    inside = cluster.container("node-2")
    assert "node-3" in engine.docker("exec", inside, "fastkv", "member", "list")
    assert engine.run("docker", "exec", inside, "fastkv-healthcheck", "/readyz").returncode == 0
    refused = engine.run("docker", "exec", "--env", "KV_HTTP_PORT=1", inside, "fastkv-healthcheck", check=False)
    assert refused.returncode == 1


def states(cluster: Composed, by: str) -> set[str]:
    """The states of all nodes as one of them shows them; Unknown while that does not answer."""
    return {str(one["state"]) for one in cluster.nodes[by].status().get("nodes", {}).values()} or {"Unknown"}


def put(cluster: Composed, by: str, key: str) -> None:
    """Write, as often as it takes: for a moment there may be no leader."""

    def done() -> bool:
        try:
            return cluster.nodes[by].put(key, key)[0] in (200, 201)
        except (OSError, http.client.HTTPException):
            return False

    eventually(done, within_s=WITHIN_S, what=f"a write of {key} through {by}")


def wait_for(cluster: Composed, node_id: str, key: str) -> None:
    """Until the node itself has the key."""

    def has() -> bool:
        try:
            return cluster.nodes[node_id].get(key, "?consistency=stale")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    eventually(has, within_s=WITHIN_S, what=f"{key} on {node_id}")


def test_a_killed_container_is_missed_and_comes_back(engine: Engine, cluster: Composed) -> None:
    leader = cluster.leader()
    others = [name for name in cluster.nodes if name != leader]
    engine.docker("kill", cluster.container(leader))
    assert cluster.state(leader)["Running"] is False
    cluster.leader(*others)
    put(cluster, others[0], "while/killed")
    eventually(lambda: cluster.shown(others[0], leader) == "Unknown", within_s=WITHIN_S, what="it is missed")
    engine.docker("start", cluster.container(leader))
    wait_for(cluster, leader, "while/killed")
    eventually(lambda: cluster.health(leader) == "healthy", within_s=WITHIN_S, what="it is healthy again")


def test_a_container_that_is_cut_off_is_missed_and_comes_back(engine: Engine, cluster: Composed) -> None:
    leader = cluster.leader()
    others = [name for name in cluster.nodes if name != leader]
    network, inside = f"{cluster.project}_kvstore", cluster.container(leader)
    engine.docker("network", "disconnect", network, inside)
    cluster.leader(*others)
    put(cluster, others[0], "while/cut-off")
    eventually(lambda: cluster.shown(others[0], leader) == "Unknown", within_s=WITHIN_S, what="it is missed")
    assert engine.run("docker", "exec", inside, "fastkv-healthcheck").returncode == 0, "alive, and not to be restarted"
    eventually(
        lambda: engine.run("docker", "exec", inside, "fastkv-healthcheck", "/readyz", check=False).returncode == 1,
        within_s=WITHIN_S,
        what="it knows that it cannot serve",
    )
    engine.docker("network", "connect", "--alias", f"kvstore-{leader}", network, inside)
    eventually(
        lambda: cluster.shown(others[0], leader) == "Follower", within_s=WITHIN_S, what="it follows, by its name"
    )
    read = f"http://127.0.0.1:808{leader[-1]}/kv/while/cut-off?consistency=stale"
    look = f"import urllib.request as r; r.urlopen({read!r}, timeout=20)"
    eventually(
        lambda: engine.run("docker", "exec", inside, "python3", "-c", look, check=False).returncode == 0,
        within_s=WITHIN_S,
        what="it catches up",
    )


def test_all_are_stopped_cleanly_and_taken_down(engine: Engine, image: str, directory: Path) -> None:
    """A project of its own, so that the order of tests does not matter."""
    with composed(engine, image, directory) as up:
        put(up, up.leader(), "kept")
        up.compose("stop", "--timeout", "120")
        assert [up.state(node_id)["ExitCode"] for node_id in up.nodes] == [0, 0, 0]
        up.compose("start")
        up.leader()
        for node_id in up.nodes:
            wait_for(up, node_id, "kept")
        project = up.project
    for listing in (("ps", "--all"), ("network", "ls"), ("volume", "ls")):
        assert engine.docker(*listing, "--quiet", "--filter", f"name={project}") == ""
    assert all(service in (ROOT / "docker-compose.yml").read_text() for service in SERVICES)
