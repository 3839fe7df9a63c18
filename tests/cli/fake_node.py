"""A stand-in for `fastkv serve`: a real process on a node's real ports that answers GET /cluster/status, and no more.

`FAKE_NODES` says how nodes misbehave, as in `node-2=exit:3,node-3=stubborn`:

* `exit:N`: ends at once with status N, after a line of complaint
* `stubborn`: does not mind SIGTERM
* `leaderless`: knows of no leader
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from fastkv.config import NodeConfig, load_config


def status_of(config: NodeConfig, leader: str | None) -> dict[str, object]:
    nodes = {
        name: {
            "id": name,
            "address": str(address.raft),
            "is_leader": name == leader,
            "state": "Leader" if name == leader else "Follower",
            "term": 1,
        }
        for name, address in config.cluster.nodes.items()
    }
    return {
        "cluster_size": len(nodes),
        "is_leader": config.node_id == leader,
        "local_node_id": config.node_id,
        "nodes": nodes,
        "timestamp": 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    parser.add_argument("--node-id")
    parser.add_argument("--data-dir")
    parser.add_argument("--log-level")
    flags = vars(parser.parse_args())
    config = load_config(flags.pop("config"), os.environ, flags)
    behaviour = dict(part.split("=") for part in os.environ.get("FAKE_NODES", "").split(",") if part)
    what, _, detail = behaviour.get(config.node_id, "").partition(":")
    (config.data_dir / "wal").mkdir(parents=True, exist_ok=True)
    print(f"{config.node_id} Follower  0 | here with {sorted(os.environ.keys() & {'KV_HTTP_PORT', 'KV_CONFIG'})}")
    print("a line without a name", flush=True)
    if what == "exit":
        sys.exit(int(detail))
    signal.signal(signal.SIGTERM, signal.SIG_IGN if what == "stubborn" else lambda *_: os._exit(0))
    leader = None if what == "leaderless" else config.cluster.bootstrap_id

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(status_of(config, leader)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: the test reads what the supervisor prints."""

    raw = ThreadingHTTPServer(("127.0.0.1", config.server.raft_port), Handler)
    assert raw.fileno() >= 0
    ThreadingHTTPServer(("127.0.0.1", config.server.http_port), Handler).serve_forever()


if __name__ == "__main__":
    main()
