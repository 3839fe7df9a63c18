"""Spans of requests and of forwarded batches, kept in memory by OpenTelemetry's own exporter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvloop
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from fastkv._core.codes import Opcode, Status
from fastkv._core.frames import FrameReader, encode_frame
from fastkv.server import tracing
from fastkv.server.tracing import CONTEXT_BYTES, CONTEXTS_LIMIT, TracedLinks, Tracing
from tests.server.http.harness import Face, put, receive_all, release

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
UNSAMPLED = f"00-{TRACE_ID}-b7ad6b7169203331-00"


class Traced:
    """A node's tracing, and what it has exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(provider)

    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())


class Wire:
    """Links that note what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int, int, bytes]] = []
        self.flushed = 0

    def send(self, node_id: str, frame: bytes) -> bool:
        ((opcode, _, _, request_id, body),) = FrameReader(1 << 20).feed(frame)
        self.sent.append((node_id, opcode, request_id, body))
        return True

    def flush(self) -> None:
        self.flushed += 1


@pytest.fixture
def traced() -> Traced:
    return Traced()


@pytest.fixture
def face(traced: Traced) -> Iterator[Face]:
    started = Face(uvloop.new_event_loop(), tracing=traced.tracing)
    yield started
    started.close()


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


@contextmanager
def under_way(face: Face, traceparent: str) -> Iterator[None]:
    """A write that has been handed to the node, and is answered at the end."""
    face.service.hold = True
    with face.connect() as client:
        client.sendall(put("/kv/a", b"v", f"traceparent: {traceparent}", "Connection: close"))
        face.until(lambda: bool(face.service.held))
        yield
        assert release(face) == 1
        assert receive_all(client).startswith(b"HTTP/1.1 201 ")


def forward(number: int, body: bytes = b"batch") -> bytes:
    return encode_frame(Opcode.FORWARD, 0, 0, number, body)


def test_a_request_continues_the_trace_of_its_header(face: Face, traced: Traced) -> None:
    face.request("PUT", "/kv/a", b"v", {"traceparent": PARENT})
    face.request("GET", "/kv/none")
    put, get = traced.spans()
    assert (put.name, get.name) == ("PUT put", "GET get")
    assert put.parent is not None
    assert f"{put.context.trace_id:032x}" == TRACE_ID
    assert f"{put.parent.span_id:016x}" == "b7ad6b7169203331"
    assert get.parent is None
    assert (attributes(put)["fastkv.code"], attributes(get)["fastkv.code"]) == ("OK", "KEY_NOT_FOUND")
    assert {put.status.status_code, get.status.status_code} == {StatusCode.UNSET}


@pytest.mark.parametrize("header", ["nonsense", "", "00-0-0-00", PARENT * 2, UNSAMPLED])
def test_a_header_that_is_none_begins_a_trace_and_one_may_say_not_to(face: Face, traced: Traced, header: str) -> None:
    face.request("GET", "/livez", headers={"traceparent": header})
    spans = traced.spans()
    assert len(spans) == (0 if header == UNSAMPLED else 1)
    assert all(span.parent is None for span in spans)


def test_an_error_of_the_cluster_s_is_one_of_the_span_s(face: Face, traced: Traced) -> None:
    face.service.forced.append((Status.NO_LEADER, 0, 0, b""))
    face.request("PUT", "/kv/a", b"v")
    (span,) = traced.spans()
    assert attributes(span)["fastkv.code"] == "NO_LEADER"
    assert span.status.status_code == StatusCode.ERROR


def test_a_fault_ends_the_span_too(face: Face, traced: Traced) -> None:
    face.service.fault = RuntimeError("a fault")
    face.request("GET", "/kv/a")
    (span,) = traced.spans()
    assert attributes(span)["fastkv.code"] == "INTERNAL_ERROR"
    assert span.status.status_code == StatusCode.ERROR


def test_a_forwarded_write_is_carried_out_within_its_trace(face: Face, traced: Traced) -> None:
    wire, leader, leader_wire = Wire(), Traced(), Wire()
    links, back = TracedLinks(wire, traced.tracing), TracedLinks(leader_wire, leader.tracing)
    with under_way(face, PARENT):
        assert face.call(lambda: links.send("node-2", forward(7)))
        assert [(to, opcode, number) for to, opcode, number, _ in wire.sent] == [
            ("node-2", Opcode.TRACE, 7), ("node-2", Opcode.FORWARD, 7)
        ]  # fmt: skip
        for _, opcode, number, body in wire.sent:
            leader.tracing.heard("node-1", opcode, number, body)
        assert leader.spans() == []
        back.send("node-1", encode_frame(Opcode.FORWARD_REPLY, 0, Status.OK, 7, b"results"))
    (entry,), (carried_out,) = traced.spans(), leader.spans()
    assert f"{carried_out.context.trace_id:032x}" == TRACE_ID
    assert carried_out.parent is not None
    assert carried_out.parent.span_id == entry.context.span_id
    assert attributes(carried_out) == {"fastkv.from": "node-1", "fastkv.code": "OK"}
    links.send("node-2", forward(8))
    assert wire.sent[-1][1:3] == (Opcode.FORWARD, 8)
    assert [opcode for _, opcode, _, _ in wire.sent].count(Opcode.TRACE) == 1, "once, and of nobody who is done"
    links.flush()
    assert wire.flushed == 1


def test_what_is_not_sampled_is_not_announced(face: Face, traced: Traced) -> None:
    wire = Wire()
    with under_way(face, UNSAMPLED):
        face.call(lambda: TracedLinks(wire, traced.tracing).send("node-2", forward(7)))
    assert [opcode for _, opcode, _, _ in wire.sent] == [Opcode.FORWARD]


def test_a_refused_batch_is_an_error_and_a_foreign_answer_is_none(traced: Traced) -> None:
    traced.tracing.heard("node-1", Opcode.TRACE, 7, PARENT.encode())
    traced.tracing.heard("node-1", Opcode.FORWARD, 7, b"")
    traced.tracing.answered("node-3", 7, Status.OK)
    assert traced.spans() == []
    traced.tracing.answered("node-1", 7, Status.NOT_LEADER)
    (span,) = traced.spans()
    assert (attributes(span)["fastkv.code"], span.status.status_code) == ("NOT_LEADER", StatusCode.ERROR)


TOO_MANY = PARENT.encode() * (CONTEXTS_LIMIT + 1)


@pytest.mark.parametrize("body", [b"x", PARENT.encode() + b"x", b"\xff" * CONTEXT_BYTES, TOO_MANY])
def test_a_frame_that_is_none_is_refused(traced: Traced, body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (a decoder's, or codecs')
        traced.tracing.heard("node-1", Opcode.TRACE, 7, body)


def test_what_is_remembered_is_bounded(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "BATCHES_LIMIT", 3)
    for number in range(5):
        traced.tracing.heard("node-1", Opcode.TRACE, number, PARENT.encode())
    for number in range(5):
        traced.tracing.heard("node-1", Opcode.FORWARD, number, b"")
        traced.tracing.answered("node-1", number, Status.OK)
    assert len(traced.spans()) == 3
