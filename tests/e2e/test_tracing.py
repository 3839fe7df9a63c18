"""One trace over two nodes: real processes, and a collector that takes what OpenTelemetry's exporter sends."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.cluster import Cluster, Node, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

WITHIN_S = 60.0
CONFIG = """
raft:
  election_timeout_ms: 2000
  heartbeat_timeout_ms: 100
tracing:
  enabled: true
"""
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"


class Collector:
    """Takes spans over OTLP/HTTP, and remembers them: (node, span)."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def take(self, request: ExportTraceServiceRequest) -> None:
        for group in request.resource_spans:
            known = {each.key: each.value.string_value for each in group.resource.attributes}
            assert known["service.name"] == "fastkv"
            for scope in group.scope_spans:
                self.spans += [(known["service.instance.id"], span) for span in scope.spans]

    def of(self, trace_id: str) -> dict[str, tuple[str, Any]]:
        """The spans of a trace, by name."""
        return {span.name: (node, span) for node, span in self.spans if span.trace_id.hex() == trace_id}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    started = Collector()
    yield started
    started.close()


def attributes(span: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in span.attributes}


def test_a_forwarded_write_is_one_trace_on_two_nodes(tmp_path: Path, collector: Collector) -> None:
    cluster = Cluster(tmp_path, extra=CONFIG)
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    try:
        for node in cluster:
            node.start(environment=environment)
        leader = cluster.leader()
        follower = cluster.followers()[0]
        headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
        assert follower.request("PUT", "/kv/a", b"v", headers)[0] in (200, 201)
        spans = eventually(
            lambda: found if len(found := collector.of(TRACE_ID)) == 2 else None, within_s=WITHIN_S, what="both spans"
        )
        entered, entry = spans["PUT put"]
        carried, carried_out = spans["carry out"]
        assert (entered, carried) == (follower.node_id, leader.node_id)
        assert entry.parent_span_id.hex() == PARENT_ID
        assert carried_out.parent_span_id == entry.span_id
        assert attributes(carried_out) == {"fastkv.from": follower.node_id, "fastkv.code": "OK"}
        # On one machine the clocks are one.
        assert entry.start_time_unix_nano <= carried_out.start_time_unix_nano
        assert carried_out.end_time_unix_nano <= entry.end_time_unix_nano
        # A node that stops sends what it still has.
        before = len(collector.spans)
        leader.get("a")
        assert leader.stop() == 0
        assert len(collector.spans) > before
    finally:
        cluster.close()


def test_a_collector_that_is_not_there_keeps_nobody_waiting(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 1, extra=CONFIG)
    node = cluster.nodes["node-1"]
    try:
        node.start(environment={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "100"})
        cluster.leader()
        for number in range(20):
            assert node.put(f"key-{number}", "v")[0] == 201
        assert node.stop() == 0
        assert any(line.endswith(" stopped") for line in node.log_text().splitlines())
    finally:
        cluster.close()


def test_without_tracing_nothing_of_it_is_loaded() -> None:
    code = "import sys, fastkv.server.runtime; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("raise ImportError('not here')\n")
    cluster = Cluster(tmp_path, 1, extra=CONFIG)
    node: Node = cluster.nodes["node-1"]
    node.start(environment={"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])})
    assert node.process is not None
    assert node.process.wait(60) == 1
    assert "pip install 'fastkv[otel]'" in node.log_text()
    assert "Traceback" not in node.log_text()
