"""Which nodes a local cluster has, where they listen, and with which configuration file they are started."""

from __future__ import annotations

import contextlib
import errno
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fastkv.config import NodeConfig, config_path, load_config, load_file
from fastkv.config.settings import HTTP_PORT_BELOW_RAFT
from fastkv.errors import ConfigError, FastKVError

DEFAULT_CLUSTER: dict[str, Any] = {
    "cluster": {
        "name": "distributed-kv-cluster",
        "bootstrap_id": "node-1",
        "data_dir": "./data/cluster",
        "nodes": {"node-1": "localhost:9001", "node-2": "localhost:9002", "node-3": "localhost:9003"},
    },
    "raft": {"election_timeout_ms": 100, "heartbeat_timeout_ms": 25},
    "logging": {"level": "info"},
}
"""config/multi-node-cluster.yaml, for an installation without it; a test holds the two together."""

WRITTEN = "cluster.yaml"
MEMBERS = "members"
HEADER = "# Written by `fastkv cluster up`, which writes it anew at every start.\n"
NOT_INHERITED = ("RAFT_NODE_ID", "KV_CONFIG", "KV_DATA_DIR", "KV_HTTP_PORT", "KV_RAFT_PORT", "KV_HOST")
"""Variables that would give every node the same identity or the same port."""


class CannotStartError(FastKVError):
    """The cluster cannot be started as asked."""

    code = "CANNOT_START"


@dataclass(frozen=True)
class Plan:
    """A local cluster that can be started: every node's configuration has been read and found good."""

    config: Path
    data_dir: Path
    nodes: Mapping[str, NodeConfig]
    serve_options: tuple[str, ...] = ()

    @property
    def quorum(self) -> int:
        """How many nodes make a majority."""
        return len(self.nodes) // 2 + 1

    def command(self, node_id: str) -> list[str]:
        """The command that runs one node, complete: it works from any directory and in any environment."""
        return [
            sys.executable, "-m", "fastkv", "serve",
            "--config", str(self.config), "--node-id", node_id, "--data-dir", str(self.data_dir),
            *self.serve_options,
        ]  # fmt: skip

    def command_line(self, node_id: str) -> str:
        """`command`, for a person to paste."""
        return shlex.join(self.command(node_id))


def node_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a node: ours, without what is the node's own."""
    return {key: value for key, value in environ.items() if key not in NOT_INHERITED}


def make_plan(
    environ: Mapping[str, str],
    *,
    config: Path | None = None,
    data_dir: Path | None = None,
    nodes: int | None = None,
    base_http_port: int | None = None,
    base_raft_port: int | None = None,
    serve_options: tuple[str, ...] = (),
) -> Plan:
    """Decide on everything, and write a configuration beside the data where the given one does not fit.

    ConfigError for a bad configuration.
    """
    source = config_path(config, environ)
    content = _content(source)
    directory = Path(data_dir or environ.get("KV_DATA_DIR") or content["cluster"]["data_dir"]).absolute()
    known = content["cluster"].get("nodes", {})
    changed = base_http_port is not None or base_raft_port is not None or (nodes is not None and nodes != len(known))
    if changed:
        content["cluster"]["nodes"] = _addresses(nodes or len(known), base_raft_port or 9001, base_http_port)
        content["cluster"]["bootstrap_id"] = "node-1"
    if changed or source is None:
        source = _write(directory, content)
    path = source.absolute()
    flags = {"data_dir": directory}
    names = list(content["cluster"]["nodes"])
    loaded = {name: load_config(path, node_environment(environ), {**flags, "node_id": name}) for name in names}
    return Plan(path, directory, loaded, serve_options)


def _content(source: Path | None) -> dict[str, Any]:
    """What the configuration says, as plain values: checked first, so that only its meaning is left to look at."""
    if source is None:
        return yaml.safe_load(yaml.safe_dump(DEFAULT_CLUSTER))  # type: ignore[no-any-return]
    settings, origins = load_file(source)
    content: dict[str, Any] = yaml.safe_load(source.read_bytes()) or {}
    cluster = content["cluster"] = dict(content.get("cluster") or {})
    cluster.setdefault("data_dir", str(settings.cluster.data_dir))
    if "cluster.nodes" not in origins:
        raise ConfigError(f"{source}: cluster.nodes is missing, so there is no cluster to start")
    return content


def _addresses(count: int, base_raft_port: int, base_http_port: int | None) -> dict[str, dict[str, str]]:
    if base_http_port is None:
        base_http_port = base_raft_port - HTTP_PORT_BELOW_RAFT
    for option, base in (("--base-raft-port", base_raft_port), ("--base-http-port", base_http_port)):
        if not 1 <= base <= 65536 - count:
            raise ConfigError(f"{option}: {count} nodes from port {base} on do not fit into 1 to 65535")
    if abs(base_raft_port - base_http_port) < count:
        raise ConfigError(
            f"--base-http-port {base_http_port} and --base-raft-port {base_raft_port}: "
            f"{count} nodes need {count} ports each, and these overlap"
        )
    return {
        f"node-{i + 1}": {"raft": f"localhost:{base_raft_port + i}", "http": f"localhost:{base_http_port + i}"}
        for i in range(count)
    }


def _write(directory: Path, content: Mapping[str, Any]) -> Path:
    content = {**content, "cluster": {**content["cluster"], "data_dir": str(directory)}}
    path = directory / WRITTEN
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(HEADER + yaml.safe_dump(dict(content), sort_keys=False))
    except OSError as error:
        raise CannotStartError(f"cannot write {path}: {error.strerror}") from None
    return path


# -- what is on the disk already -------------------------------------------------------------------------------------


def check_members(plan: Plan) -> None:
    """Refuse data of a cluster with other members; remember the members where there is no data yet.

    A different set of nodes over old data would have quorums that never saw what the old ones acknowledged.
    """
    path = plan.data_dir / MEMBERS
    names = sorted(plan.nodes)
    try:
        old = path.read_text().split()
    except FileNotFoundError:
        old = names
    if old != names:
        raise CannotStartError(
            f"{plan.data_dir} has the data of a cluster of {', '.join(old)}, not of {', '.join(names)}: start with "
            f"--nodes {len(old)}, choose another --data-dir, or remove that data with --clean"
        )
    plan.data_dir.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n")


def clean(plan: Plan) -> list[Path]:
    """Remove the data, logs and records of this and earlier clusters here. Returns what was removed."""
    removed: list[Path] = []
    directory = plan.data_dir
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        if path.is_dir() and _is_node_data(path):
            shutil.rmtree(path)
            path.with_name(path.name + ".log").unlink(missing_ok=True)
            removed.append(path)
    with contextlib.suppress(FileNotFoundError):
        (directory / MEMBERS).unlink()
    return removed


def _is_node_data(path: Path) -> bool:
    """Whether this directory is a node's, and not something of the user's that merely lies here."""
    return not path.is_symlink() and (path / "wal").is_dir()


# -- ports -----------------------------------------------------------------------------------------------------------


def check_ports(plan: Plan) -> None:
    """CannotStartError, naming every port of the plan on which somebody listens already."""
    taken = []
    for node_id, node in plan.nodes.items():
        for what, port in (("raw TCP", node.server.raft_port), ("HTTP", node.server.http_port)):
            problem = _listen_problem(node.server.host, port)
            if problem:
                taken.append(f"{node.server.host}:{port} ({what} of {node_id}): {problem}")
    if taken:
        raise CannotStartError(
            "cannot listen on " + "; ".join(taken) + ". Is a cluster running already? Stop it (`fastkv cluster stop`, "
            "or Ctrl-C where it runs), or choose other ports with --base-http-port and --base-raft-port"
        )


def _listen_problem(host: str, port: int) -> str:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return "already in use" if error.errno == errno.EADDRINUSE else str(error.strerror)
    return ""
