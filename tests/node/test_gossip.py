"""What nodes tell each other for people to look at arrives as it was said, and may be missing."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from fastkv.node.gossip import Gossip
from fastkv.node.ports import NodeSettings

SETTINGS = NodeSettings(
    node_id="node-1", disk=1, tick_ms=5.0, request_timeout_ticks=1, leader_wait_ticks=1, read_retry_ticks=1,
    status_ticks=100, status_expiry_ticks=300, waiting_limit_bytes=1, log_memory_bytes=1, snapshot_log_bytes=1,
    snapshot_chunk_bytes=1, snapshot_window_bytes=1, snapshot_timeout_ticks=1,
)  # fmt: skip
HEADER_BYTES = 16


class Sent:
    """A transport that keeps what is sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def send(self, node_id: str, frame: bytes) -> bool:
        self.bodies.append(frame[HEADER_BYTES:])
        return True

    def flush(self) -> None:
        raise AssertionError("not gossip's")


def gossip(sent: Sent, **options: Any) -> Gossip:
    return Gossip(SETTINGS, sent, list, dict, **options)


def told(**options: Any) -> bytes:
    sent = Sent()
    gossip(sent, **options).tell(["node-2"], 0, 3, 9, 8, "node-2", True, 0)
    (body,) = sent.bodies
    return body


def report_of(body: bytes) -> dict[str, Any]:
    hearing = gossip(Sent())
    hearing.heard("node-2", body, 0)
    status = hearing.status_of("node-2", 0)
    assert status is not None
    return status.report


def test_a_report_arrives_as_it_was_said() -> None:
    report = {"load": {"reads": [1, 2], "failed": 0}, "lags": {"node-3": 7}}
    assert report_of(told(report=lambda: report)) == report
    assert report_of(told()) == {}


def test_an_older_version_says_nothing() -> None:
    said = orjson.loads(told())
    del said["report"]
    assert report_of(orjson.dumps(said)) == {}


def test_a_report_that_is_none_is_not_of_the_protocol() -> None:
    said = {**orjson.loads(told()), "report": 5}
    with pytest.raises(ValueError, match="not a peer status"):
        report_of(orjson.dumps(said))
