"""What a node's configuration may say, which source wins, and that every error names the place and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkv.config import HostPort, NodeAddress, NodeConfig, is_loopback, load_config, parse_host_port
from fastkv.config.loader import ENVIRONMENT
from fastkv.config.settings import GIB, KIB, MIB, SECTIONS, Rule, rules
from fastkv.errors import ConfigError

ROOT = Path(__file__).parent.parent
THREE = """\
cluster:
  name: "three"
  nodes:
    node-1: "localhost:9001"
    node-2: {raft: "localhost:9002"}
    node-3: {raft: "localhost:9003", http: "127.0.0.1:80"}
"""


Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return path

    return write


# -- what it means ---------------------------------------------------------------------------------------------------


def test_without_anything_it_is_one_durable_node_on_this_machine() -> None:
    config = load_config(None, {}, {})
    assert config == NodeConfig()
    assert config.node_id == "node-1"
    assert config.data_dir == Path("data/node-1")
    assert (config.server.host, config.server.http_port, config.server.raft_port) == ("127.0.0.1", 8081, 9001)
    assert config.cluster.nodes == {"node-1": NodeAddress(HostPort("127.0.0.1", 9001), HostPort("127.0.0.1", 8081))}


def test_the_cluster_file_is_what_users_were_promised() -> None:
    config = load_config(ROOT / "config/multi-node-cluster.yaml", {"RAFT_NODE_ID": "node-2"}, {})
    assert config.cluster.name == "distributed-kv-cluster"
    assert config.cluster.bootstrap_id == "node-1"
    assert config.data_dir == Path("data/cluster/node-2")
    assert [str(node.raft) for node in config.cluster.nodes.values()] == [f"localhost:900{i}" for i in (1, 2, 3)]
    assert [node.http.port for node in config.cluster.nodes.values()] == [8081, 8082, 8083]
    assert (config.raft.election_timeout_ms, config.raft.heartbeat_timeout_ms) == (100, 25)
    assert (config.server.host, config.server.raft_port, config.server.http_port) == ("127.0.0.1", 9002, 8082)
    assert config.logging.level == "info"


def test_the_single_node_file_is_the_default_written_out() -> None:
    assert load_config(ROOT / "config/single-node.yaml", {}, {}) == NodeConfig()


def test_an_http_address_that_is_not_given_is_beside_the_raft_port(write: Write) -> None:
    nodes = load_config(write(THREE), {}, {"node_id": "node-1"}).cluster.nodes
    assert nodes["node-2"].http == HostPort("localhost", 8082)
    assert nodes["node-3"].http == HostPort("127.0.0.1", 80)


def test_the_first_node_calls_the_first_election_unless_another_is_named(write: Write) -> None:
    assert load_config(write(THREE), {}, {"node_id": "node-2"}).cluster.bootstrap_id == "node-1"
    named = THREE.replace("cluster:", "cluster:\n  bootstrap_id: node-3")
    assert load_config(write(named), {}, {"node_id": "node-2"}).cluster.bootstrap_id == "node-3"


def test_flag_over_environment_over_file_over_default(write: Write) -> None:
    path = write("logging: {level: warning}")
    assert load_config(None, {}, {}).logging.level == "info"
    assert load_config(path, {}, {}).logging.level == "warning"
    assert load_config(None, {"KV_CONFIG": str(path)}, {}).logging.level == "warning"
    assert load_config(path, {"KV_LOG_LEVEL": "error"}, {}).logging.level == "error"
    assert load_config(path, {"KV_LOG_LEVEL": "error"}, {"log_level": "debug"}).logging.level == "debug"
    assert load_config(path, {"KV_LOG_LEVEL": ""}, {"log_level": None}).logging.level == "warning"


def test_every_variable_has_its_effect() -> None:
    environ = {
        "RAFT_NODE_ID": "solo", "KV_DATA_DIR": "/tmp/x", "KV_HTTP_PORT": "8000", "KV_RAFT_PORT": "9000",
        "KV_HOST": "127.0.0.2", "KV_LOG_LEVEL": "debug", "KV_LOG_FORMAT": "json", "KV_JOIN": "true",
        "KV_PROTOCOL_VERSION": "1",
    }
    assert {*environ, "KV_CONFIG"} == set(ENVIRONMENT.values())
    config = load_config(None, environ, {})
    assert config.data_dir == Path("/tmp/x/solo")
    assert (config.server.host, config.server.raft_port, config.server.http_port) == ("127.0.0.2", 9000, 8000)
    assert (config.logging.level, config.logging.format) == ("debug", "json")
    assert config.cluster.bootstrap_id == "solo"
    assert config.cluster.join
    assert config.cluster.protocol_version == 1


def test_a_node_may_listen_on_another_port_than_the_one_it_is_reached_by(write: Write) -> None:
    path = write(THREE + "server: {raft_port: 7001}\n")
    config = load_config(path, {}, {"node_id": "node-1"})
    assert (config.server.raft_port, config.server.http_port) == (7001, 8081)
    assert config.cluster.nodes["node-1"].raft.port == 9001
    flagged = load_config(path, {}, {"node_id": "node-1", "raft_port": 9101})
    assert (flagged.server.raft_port, flagged.cluster.nodes["node-1"].raft.port) == (9101, 9101)


def test_port_overrides_are_what_the_other_nodes_are_told(write: Write) -> None:
    path = write(THREE)
    one = load_config(path, {}, {"node_id": "node-1", "raft_port": 9101})
    assert one.cluster.nodes["node-1"] == NodeAddress(HostPort("localhost", 9101), HostPort("localhost", 8181))
    three = load_config(path, {}, {"node_id": "node-3", "raft_port": 9103})
    assert three.cluster.nodes["node-3"].http.port == 80, "an address that is written out is not derived"
    assert three.cluster.nodes["node-1"].raft.port == 9001


# -- what is refused -------------------------------------------------------------------------------------------------

BAD_FILES = {
    "raft:\n  election_timout_ms: 100": (2, "election_timout_ms", "did you mean 'election_timeout_ms'"),
    "rafts: {}": (1, "rafts", "did you mean 'raft'"),
    "\n\nfoo: 1": (3, "foo", "allowed are cluster, server, raft, storage, limits, logging, security"),
    "raft:\n  election_timeout_ms: 0": (2, "raft.election_timeout_ms: 0", "from 15 to 600000 ms"),
    "raft:\n  election_timeout_ms: yes": (2, "raft.election_timeout_ms: True", "a whole number"),
    "raft:\n  election_timeout_ms: 99.5": (2, "99.5", "a whole number"),
    "raft:\n  election_timeout_ms: fast": (2, "'fast'", "a whole number"),
    "raft:\n  election_timeout_ms:": (2, "None", "a whole number"),
    "raft:\n  election_timeout_ms: [1]": (2, "raft.election_timeout_ms", "one value is expected"),
    "raft:\n  heartbeat_timeout_ms: 30\n  election_timeout_ms: 89": (3, ": 89 ", "heartbeat_timeout_ms, which is 90"),
    "raft:\n  heartbeat_timeout_ms: 40": (2, "raft.election_timeout_ms: 100", "which is 120"),
    "raft: 5": (1, "raft", "a mapping is expected"),
    "- raft": (1, "", "a mapping is expected"),
    "raft: {": (1, "", "not valid YAML"),
    "raft: {}\nraft: {}": (2, "raft", "a second time, first at"),
    "logging:\n  level: loud": (2, "logging.level: 'loud'", "one of debug, info, warning, error"),
    "logging:\n  level: 3": (2, "logging.level: 3", "one of"),
    "storage:\n  segment_bytes: 65537": (2, "65537", "from 65536 to 1073741824 bytes, a multiple of 4096"),
    "security: {insecure: 1}": (1, "security.insecure: 1", "true or false"),
    "cluster: {name: ''}": (1, "cluster.name: ''", "not empty"),
    f"cluster: {{name: {'x' * 129}}}": (1, "cluster.name", "at most 128"),
    "cluster:\n  nodes:\n    a: localhost": (3, "cluster.nodes.a: 'localhost'", '"host:port"'),
    "cluster:\n  nodes:\n    a: localhost:0": (3, "cluster.nodes.a: 'localhost:0'", "1 to 65535"),
    "cluster:\n  nodes:\n    a: localhost:900": (3, "900 - 920", "give it, as in"),
    "cluster:\n  nodes:\n    a: {http: 'localhost:80'}": (3, "cluster.nodes.a", "`raft: \"host:port\"` is missing"),
    "cluster:\n  nodes:\n    a: {raft: 'localhost:9001', htp: 'localhost:80'}": (3, "htp", "did you mean 'http'"),
    "cluster:\n  nodes:\n    a: localhost:9001\n    b: localhost:9001": (4, "localhost:9001", "an address of a"),
    "cluster:\n  nodes:\n    a/b: localhost:9001": (3, "'a/b'", "letters, digits"),
    "cluster:\n  nodes:\n    ..: localhost:9001": (3, "'..'", "beginning with a letter"),
    "cluster:\n  nodes: {}": (2, "cluster.nodes", "at least one node"),
    "cluster:\n  bootstrap_id: b\n  nodes:\n    a: localhost:9001": (2, "'b'", "allowed are a"),
    "cluster:\n  nodes:\n    a: localhost:9001\n    b: localhost:9002": (2, "RAFT_NODE_ID", "one of a, b"),
    "cluster:\n  nodes:\n    a: kv.example:9001": (2, "'kv.example'", "insecure: true"),
    "server:\n  host: 0.0.0.0": (2, "server.host: '0.0.0.0'", "insecure: true"),
    "limits:\n  client_frame_bytes: 1048576": (2, "limits.client_frame_bytes", "limits.value_bytes"),
    "limits:\n  http_body_bytes: 1024": (2, "limits.http_body_bytes", "limits.value_bytes"),
    "limits:\n  peer_frame_bytes: 1048576": (2, "limits.peer_frame_bytes", "16 x raft.max_append_bytes"),
    "raft:\n  max_uncommitted_bytes: 1048576": (2, "raft.max_uncommitted_bytes", "16 x raft.max_append_bytes"),
    "raft:\n  max_append_bytes: 8388608": (2, "limits.peer_frame_bytes", "16 x raft.max_append_bytes"),
}


@pytest.mark.parametrize("text", BAD_FILES)
def test_a_bad_file_is_refused_by_line_key_value_and_what_is_allowed(text: str, write: Write) -> None:
    line, what, allowed = BAD_FILES[text]
    path = write(text)
    with pytest.raises(ConfigError) as error:
        load_config(path, {}, {})
    message = str(error.value)
    assert message.startswith(f"{path}:{line}: "), message
    assert what in message
    assert allowed in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("environ", "flags", "start"),
    [
        ({"KV_HTTP_PORT": "http"}, {}, "KV_HTTP_PORT: 'http' is not allowed: must be a whole number from 1 to 65535"),
        ({"KV_RAFT_PORT": "65536"}, {}, "KV_RAFT_PORT: '65536' is not allowed: must be a whole number from 1 to 65535"),
        ({}, {"raft_port": 80}, "--raft-port: below 921, give --http-port too"),
        ({}, {"log_level": "x"}, "--log-level: 'x' is not allowed: must be one of debug"),
        ({"KV_LOG_FORMAT": "xml"}, {}, "KV_LOG_FORMAT: 'xml' is not allowed: must be one of console, json"),
        ({"RAFT_NODE_ID": "a b"}, {}, "RAFT_NODE_ID: 'a b' is no name for a node"),
        ({}, {"host": "10.0.0.1"}, "--host: server.host: '10.0.0.1' can be reached from other machines"),
        ({"KV_HOST": "::"}, {}, "KV_HOST: server.host: '::' can be reached from other machines"),
        ({}, {"raft_port": 9001, "http_port": 9001}, "the raw-TCP and the HTTP port of node-1 are both 9001"),
        ({"KV_CONFIG": "/no/such/file"}, {}, "cannot read the configuration /no/such/file: No such file"),
    ],
)
def test_a_bad_variable_or_flag_is_named(environ: dict[str, str], flags: dict[str, object], start: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(start)):
        load_config(None, environ, flags)


def test_an_unknown_node_is_refused_with_the_known_ones(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"^RAFT_NODE_ID: unknown node 'node-4'.*allowed are node-1, node-2, node-3"):
        load_config(write(THREE), {"RAFT_NODE_ID": "node-4"}, {})


def test_another_host_is_allowed_once_insecurity_is_written_down(write: Write) -> None:
    config = load_config(write("security: {insecure: true}"), {}, {"host": "0.0.0.0"})
    assert config.server.host == "0.0.0.0"


def test_what_loopback_is() -> None:
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.1.2.3", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org"))


@given(st.sampled_from(["localhost", "10.0.0.1", "::1", "a-b.c"]), st.integers(1, 65535))
def test_an_address_reads_back_as_it_is_written(host: str, port: int) -> None:
    address = HostPort(host, port)
    assert parse_host_port(str(address)) == address


@given(st.text(max_size=20))
def test_any_text_is_an_address_or_none(text: str) -> None:
    address = parse_host_port(text)
    assert address is None or (address.host and 1 <= address.port <= 65535)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_configuration_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    try:
        load_config(path, {}, {})
        said = str(path)
    except ConfigError as error:
        said = str(error)
    assert str(path) in said


# -- every setting ---------------------------------------------------------------------------------------------------

SETTINGS = [(section, key, rule) for section, kind in SECTIONS.items() for key, rule in rules(kind).items()]


@pytest.mark.parametrize(("section", "key", "rule"), SETTINGS, ids=[f"{s}.{k}" for s, k, _ in SETTINGS])
def test_a_default_keeps_its_own_rule(section: str, key: str, rule: Rule) -> None:
    default = getattr(getattr(NodeConfig(), section), key)
    assert rule.check(default) == default
    if rule.kind is int:
        assert rule.unit, "a number without a unit is a riddle"
        for beyond in (rule.minimum - rule.multiple, rule.maximum + rule.multiple):
            with pytest.raises(ValueError, match=f"from {rule.minimum} to {rule.maximum}"):
                rule.check(beyond)


@pytest.mark.parametrize(("section", "key"), [(section, key) for section, key, _ in SETTINGS])
def test_no_setting_is_without_a_reader(section: str, key: str) -> None:
    sources = [
        path.read_text()
        for path in (ROOT / "fastkv").rglob("*.py")
        if "config" not in path.relative_to(ROOT / "fastkv").parts[0]
    ]
    assert any(re.search(rf"\.{key}\b", source) for source in sources), f"{section}.{key} changes nothing"


# -- the page about it -----------------------------------------------------------------------------------------------


def _shown(value: object, unit: str) -> str:
    if unit == "bytes" and isinstance(value, int):
        for size, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
            if value >= size and value % size == 0:
                return f"{value} ({value // size} {name})"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _row(section: str, key: str, rule: Rule) -> str:
    default = _shown(getattr(getattr(NodeConfig(), section), key), rule.unit)
    allowed = f"{rule.minimum} to {rule.maximum}" if rule.kind is int else rule.allowed
    return f"| `{section}.{key}` | {default} | {rule.unit} | {allowed} | {rule.meaning} |"


@pytest.mark.parametrize(("section", "key", "rule"), SETTINGS, ids=[f"{s}.{k}" for s, k, _ in SETTINGS])
def test_the_page_says_what_the_code_does(section: str, key: str, rule: Rule) -> None:
    assert _row(section, key, rule) in (ROOT / "docs/configuration.md").read_text().splitlines()


def test_the_page_has_no_setting_that_the_code_lacks() -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    named = set(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \|", page, re.MULTILINE))
    assert named == {f"{section}.{key}" for section, key, _ in SETTINGS} | {"cluster.data_dir", "cluster.nodes"}
    assert all(f"`{variable}`" in page for variable in ENVIRONMENT.values())
