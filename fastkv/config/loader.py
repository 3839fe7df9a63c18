"""From a file, the environment and flags to one node's configuration. A flag wins over the environment, that over the
file, and that over the default.

Every error is a `ConfigError` that names the place (file and line, variable or flag), the key, the value, and what is
allowed there.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastkv.config.document import Element, read_document, suggestion
from fastkv.config.settings import (
    HTTP_PORT_BELOW_RAFT,
    SECTIONS,
    ClusterConfig,
    HostPort,
    LoggingSettings,
    NodeAddress,
    NodeConfig,
    Rule,
    ServerSettings,
    rules,
)
from fastkv.config.validation import Origins, check_together
from fastkv.errors import ConfigError

ENVIRONMENT = {
    "config": "KV_CONFIG",
    "node_id": "RAFT_NODE_ID",
    "data_dir": "KV_DATA_DIR",
    "http_port": "KV_HTTP_PORT",
    "raft_port": "KV_RAFT_PORT",
    "host": "KV_HOST",
    "join": "KV_JOIN",
    "protocol_version": "KV_PROTOCOL_VERSION",
    "log_level": "KV_LOG_LEVEL",
    "log_format": "KV_LOG_FORMAT",
}
"""Which environment variable stands for which flag (`data_dir` is `--data-dir`)."""

NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NODE_ID_ALLOWED = "1 to 64 letters, digits, dots, dashes or underscores, beginning with a letter or a digit"
PORT = Rule(int, "", minimum=1, maximum=65535)
CLUSTER_NAME_LIMIT_BYTES = 128


@dataclasses.dataclass(frozen=True, slots=True)
class Override:
    """A value from a flag or a variable, and where it came from."""

    value: str
    origin: str

    def checked(self, rule: Rule) -> Any:
        """The value by its rule; ConfigError otherwise."""
        try:
            return rule.parse(self.value)
        except ValueError as allowed:
            raise ConfigError(f"{self.origin}: {self.value!r} is not allowed: must be {allowed}") from None


def load_config(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> NodeConfig:
    """The configuration of the one node that this process is to be.

    `flags` has the keys of `ENVIRONMENT`; a flag that was not given is missing or None. Without a file, here or in
    KV_CONFIG, it is a single node on 127.0.0.1. ConfigError for whatever is wrong.
    """
    overrides = _overrides(environ, flags)
    base, origins = load_file(config_path(path, environ))
    node_id = _own_id(base, overrides.get("node_id"), origins)
    cluster = base.cluster
    if "cluster.nodes" not in origins:
        # Without a cluster there is nothing that a name could contradict: the one node has the name it is given.
        address = next(iter(cluster.nodes.values()))
        cluster = dataclasses.replace(cluster, nodes={node_id: address}, bootstrap_id=node_id)
    address = _own_address(cluster.nodes[node_id], overrides, f"cluster.nodes.{node_id}" in origins.explicit_http)
    nodes = {**cluster.nodes, node_id: address}
    known = rules(ClusterConfig)
    own = {key: overrides[key].checked(known[key]) for key in ("join", "protocol_version") if key in overrides}
    data_dir = Path(overrides["data_dir"].value) if "data_dir" in overrides else cluster.data_dir
    config = dataclasses.replace(
        base,
        node_id=node_id,
        cluster=dataclasses.replace(cluster, nodes=nodes, data_dir=data_dir, **own),
        server=_own_server(base.server, address, overrides, origins),
        logging=_own_logging(base.logging, overrides),
    )
    check_together(config, origins)
    return config


def config_path(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read: the flag's, or KV_CONFIG's, or none."""
    return path or (Path(environ["KV_CONFIG"]) if environ.get("KV_CONFIG") else None)


def load_file(path: Path | None) -> tuple[NodeConfig, Origins]:
    """What a file says, for whichever of its nodes; the defaults where there is none."""
    origins = Origins()
    root = read_document(path) if path else None
    if root is None:
        return NodeConfig(), origins
    sections: dict[str, Any] = {}
    for name, element in root.known_children(SECTIONS):
        if name == "cluster":
            sections[name] = _cluster(element, origins)
        else:
            sections[name] = _section(element, SECTIONS[name], origins)
    return NodeConfig(**sections), origins


def _section(element: Element, section: type, origins: Origins) -> Any:
    known = rules(section)
    values = {key: _value(child, known[key], origins) for key, child in element.known_children(known)}
    return section(**values)


def _value(element: Element, rule: Rule, origins: Origins) -> Any:
    value = element.scalar()
    origins.note(element)
    try:
        return rule.check(value)
    except ValueError as allowed:
        raise element.error(f"{value!r} is not allowed: must be {allowed}") from None


# -- the cluster section ---------------------------------------------------------------------------------------------


def _cluster(element: Element, origins: Origins) -> ClusterConfig:
    known = rules(ClusterConfig)
    values: dict[str, Any] = {}
    for key, child in element.known_children([*known, "data_dir", "nodes"]):
        if key == "nodes":
            values[key] = _nodes(child, origins)
        elif key == "data_dir":
            values[key] = Path(_value(child, Rule(str, ""), origins))
        else:
            values[key] = _value(child, known[key], origins)
        if key == "name" and len(values[key].encode()) > CLUSTER_NAME_LIMIT_BYTES:
            raise child.error(f"has {len(values[key].encode())} bytes; at most {CLUSTER_NAME_LIMIT_BYTES} are allowed")
        if key == "bootstrap_id":
            bootstrap = child
    cluster = ClusterConfig(**values)
    if "bootstrap_id" not in values:
        return dataclasses.replace(cluster, bootstrap_id=next(iter(cluster.nodes)))
    if cluster.bootstrap_id not in cluster.nodes:
        raise bootstrap.error(f"unknown node {cluster.bootstrap_id!r}{suggestion(cluster.bootstrap_id, cluster.nodes)}")
    return cluster


def _nodes(element: Element, origins: Origins) -> dict[str, NodeAddress]:
    nodes: dict[str, NodeAddress] = {}
    taken: dict[HostPort, str] = {}
    origins.note(element)
    for node_id, child in element.children():
        if not NODE_ID.fullmatch(node_id):
            raise child.error(f"{node_id!r} is no name for a node: must be {NODE_ID_ALLOWED}")
        address = nodes[node_id] = _node_address(child, origins)
        for what in (address.raft, address.http):
            if what in taken:
                raise child.error(f"{what} is already an address of {taken[what]}")
            taken[what] = node_id
    if not nodes:
        raise element.error('at least one node is expected, as in `node-1: "localhost:9001"`')
    return nodes


def _node_address(element: Element, origins: Origins) -> NodeAddress:
    if not element.is_mapping:
        raft = _host_port(element)
        return NodeAddress(raft, _http_beside(raft, element))
    parts = {key: _host_port(child) for key, child in element.known_children(["raft", "http"])}
    if "raft" not in parts:
        raise element.error('`raft: "host:port"` is missing')
    if "http" not in parts:
        return NodeAddress(parts["raft"], _http_beside(parts["raft"], element))
    origins.explicit_http.add(element.path)
    return NodeAddress(parts["raft"], parts["http"])


def _http_beside(raft: HostPort, element: Element) -> HostPort:
    if raft.port <= HTTP_PORT_BELOW_RAFT:
        raise element.error(
            f"the HTTP port would be {raft.port} - {HTTP_PORT_BELOW_RAFT}; give it, as in "
            f'`{{raft: "{raft}", http: "{raft.host}:8081"}}`'
        )
    return HostPort(raft.host, raft.port - HTTP_PORT_BELOW_RAFT)


def _host_port(element: Element) -> HostPort:
    value = element.scalar()
    address = parse_host_port(value) if isinstance(value, str) else None
    if address is None:
        raise element.error(f'{value!r} is not allowed: must be "host:port" with a port from 1 to 65535')
    return address


def parse_host_port(text: str) -> HostPort | None:
    """`host:port` or `[address]:port`; None where it is neither."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return None
    if not host or not colon or re.search(r"\s", host):
        return None
    try:
        return HostPort(host, PORT.parse(port))
    except ValueError:
        return None


# -- what is this node's own -----------------------------------------------------------------------------------------


def _overrides(environ: Mapping[str, str], flags: Mapping[str, Any]) -> dict[str, Override]:
    overrides = {}
    for key, variable in ENVIRONMENT.items():
        if flags.get(key) is not None:
            overrides[key] = Override(str(flags[key]), "--" + key.replace("_", "-"))
        elif environ.get(variable):
            overrides[key] = Override(environ[variable], variable)
    return overrides


def _own_id(base: NodeConfig, given: Override | None, origins: Origins) -> str:
    nodes = base.cluster.nodes
    if given is None:
        if len(nodes) == 1:
            return next(iter(nodes))
        raise ConfigError(
            f"{origins.place('cluster.nodes')}: the cluster has {len(nodes)} nodes, so this one has to know which it "
            f"is: set RAFT_NODE_ID or --node-id to one of {', '.join(nodes)}"
        )
    if not NODE_ID.fullmatch(given.value):
        raise ConfigError(f"{given.origin}: {given.value!r} is no name for a node: must be {NODE_ID_ALLOWED}")
    if "cluster.nodes" in origins and given.value not in nodes:
        raise ConfigError(f"{given.origin}: unknown node {given.value!r}{suggestion(given.value, nodes)}")
    return given.value


def _own_address(address: NodeAddress, overrides: Mapping[str, Override], explicit_http: bool) -> NodeAddress:
    raft, http = address.raft, address.http
    if "raft_port" in overrides:
        raft = raft._replace(port=overrides["raft_port"].checked(PORT))
        if not explicit_http and "http_port" not in overrides:
            if raft.port <= HTTP_PORT_BELOW_RAFT:
                origin = overrides["raft_port"].origin
                raise ConfigError(f"{origin}: below {HTTP_PORT_BELOW_RAFT + 1}, give --http-port too")
            http = http._replace(port=raft.port - HTTP_PORT_BELOW_RAFT)
    if "http_port" in overrides:
        http = http._replace(port=overrides["http_port"].checked(PORT))
    return NodeAddress(raft, http)


def _own_server(
    base: ServerSettings, address: NodeAddress, overrides: Mapping[str, Override], origins: Origins
) -> ServerSettings:
    if "host" in overrides:
        host = overrides["host"].value
        origins.places["server.host"] = overrides["host"].origin
    elif "server.host" in origins:
        host = base.host
    else:
        # As an address rather than a name, because localhost may also stand for ::1 on a machine without IPv6.
        host = "127.0.0.1" if address.raft.host == "localhost" else address.raft.host
        origins.places["server.host"] = "default"
    ports = {"raft_port": address.raft.port, "http_port": address.http.port}
    for key in ports:
        if f"server.{key}" in origins and key not in overrides:
            ports[key] = getattr(base, key)
    return ServerSettings(host, **ports)


def _own_logging(base: LoggingSettings, overrides: Mapping[str, Override]) -> LoggingSettings:
    given = {name: overrides.get(f"log_{name}") for name in ("level", "format")}
    known = rules(LoggingSettings)
    return dataclasses.replace(base, **{name: it.checked(known[name]) for name, it in given.items() if it})
