"""OpenTelemetry: one trace of a request over HTTP, from the node that takes it to the leader that carries it out.

Off unless `tracing.enabled` says otherwise, and then nothing here is even imported. Where spans go is OpenTelemetry's
own business: its OTEL_* variables name the collector, the sampler and more.

A span is begun for each request, a child of its `traceparent` header's where there is one. Consensus knows nothing of
it. Writes of one turn are forwarded as one FORWARD frame; so when one leaves, a TRACE frame goes ahead of it, with the
contexts of the writes that have been begun and not been forwarded yet. The leader begins a span for each of these,
which ends when it sends the results back.
"""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from typing import TypeVar

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from fastkv._core.codes import Opcode, Status
from fastkv._core.frames import encode_frame
from fastkv.node import Transport
from fastkv.server.http.request import Request
from fastkv.version import __version__

CONTEXTS_LIMIT = 256
"""Of the writes in one batch so many are traced to the leader; the others only where they came in."""
BATCHES_LIMIT = 4096
"""Forwarded batches, announced or under way, that are remembered at a time."""
CLOSE_LIMIT_S = 2.0
"""How long a node that stops waits for the collector."""
CONTEXT_BYTES = len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
_HEADER = struct.Struct("<IBBHQ")
_NO_FAULT = frozenset(
    {"OK", "NOT_MODIFIED", "KEY_NOT_FOUND", "PRECONDITION_FAILED", "NOT_FOUND", "METHOD_NOT_ALLOWED", "EMPTY_BODY"}
    | {"INVALID_JSON", "INVALID_KEY", "INVALID_PARAMETER", "VALUE_REQUIRED", "VALUE_TOO_LARGE", "KEY_TOO_LARGE"}
)
"""Answers that are as they should be, or the client's own error."""

T = TypeVar("T")
_PROPAGATOR = TraceContextTextMapPropagator()


def otlp_provider(node_id: str, cluster: str) -> TracerProvider:
    """Spans go to a collector over OTLP."""
    known = {"service.name": "fastkv", "service.version": __version__, "service.instance.id": node_id}
    provider = TracerProvider(
        resource=Resource.create({**known, "fastkv.cluster": cluster}), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Tracing:
    """The spans of one node. Runs on its loop."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("fastkv", __version__)
        self._unforwarded: dict[Request, str] = {}
        """Writes under way that may still be forwarded, and their contexts."""
        self._spans: dict[Request, Span] = {}
        self._announced: OrderedDict[tuple[str, int], list[str]] = OrderedDict()
        self._carried_out: OrderedDict[tuple[str, int], list[Span]] = OrderedDict()

    # -- requests ----------------------------------------------------------------------------------------------------

    def begin(self, request: Request) -> None:
        """A request is handed to its handler."""
        carrier = {
            name: request.headers[name.encode()].decode("latin-1")
            for name in ("traceparent", "tracestate")
            if name.encode() in request.headers
        }
        span = self._tracer.start_span(
            request.method.decode("latin-1"), _PROPAGATOR.extract(carrier, Context()), SpanKind.SERVER
        )
        self._spans[request] = span
        if span.is_recording() and request.method in (b"PUT", b"DELETE"):
            written: dict[str, str] = {}
            _PROPAGATOR.inject(written, set_span_in_context(span, Context()))
            self._unforwarded[request] = written["traceparent"]

    def end(self, request: Request, code: str) -> None:
        """It has been answered."""
        self._unforwarded.pop(request, None)
        span = self._spans.pop(request, None)
        if span is not None and span.is_recording():
            span.update_name(f"{request.method.decode('latin-1')} {request.op}")
            _finish(span, code)

    # -- batches -----------------------------------------------------------------------------------------------------

    def announce(self, forward_id: int) -> bytes | None:
        """The TRACE frame to send ahead of a FORWARD; None where nothing in it is traced."""
        contexts = list(self._unforwarded.values())[:CONTEXTS_LIMIT]
        self._unforwarded.clear()
        body = "".join(contexts).encode()
        return encode_frame(Opcode.TRACE, 0, 0, forward_id, body) if contexts else None

    def heard(self, node_id: str, opcode: int, request_id: int, body: bytes) -> None:
        """A peer's frame, before the node takes it. ValueError for a TRACE that is none."""
        if opcode == Opcode.TRACE:
            if len(body) % CONTEXT_BYTES or len(body) > CONTEXT_BYTES * CONTEXTS_LIMIT:
                raise ValueError(f"a TRACE body has {CONTEXT_BYTES} bytes for each context, not {len(body)} in all")
            text = body.decode("ascii")
            contexts = [text[at : at + CONTEXT_BYTES] for at in range(0, len(text), CONTEXT_BYTES)]
            _remember(self._announced, (node_id, request_id), contexts)
        elif opcode == Opcode.FORWARD:
            contexts = self._announced.pop((node_id, request_id), [])
            spans = [self._carry_out(node_id, context) for context in contexts]
            if spans:
                _remember(self._carried_out, (node_id, request_id), spans)

    def _carry_out(self, node_id: str, context: str) -> Span:
        parent = _PROPAGATOR.extract({"traceparent": context}, Context())
        return self._tracer.start_span("carry out", parent, SpanKind.SERVER, {"fastkv.from": node_id})

    def answered(self, node_id: str, forward_id: int, status: int) -> None:
        """The results of a batch leave for the node that forwarded it."""
        for span in self._carried_out.pop((node_id, forward_id), ()):
            _finish(span, Status(status).name)

    def close(self) -> None:
        """Send what has not been sent, or give it up where the collector does not take it in time."""
        # A daemon, because the exporter goes on trying for much longer than a node may take to stop.
        sending = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        sending.start()
        sending.join(CLOSE_LIMIT_S)


class TracedLinks:
    """A node's transport that says ahead of a batch what it belongs to."""

    def __init__(self, links: Transport, tracing: Tracing) -> None:
        self._links = links
        self._tracing = tracing

    def send(self, node_id: str, frame: bytes) -> bool:
        """As `Transport.send`."""
        _, opcode, _, status, request_id = _HEADER.unpack_from(frame)
        if opcode == Opcode.FORWARD:
            announcement = self._tracing.announce(request_id)
            if announcement is not None:
                self._links.send(node_id, announcement)
        elif opcode == Opcode.FORWARD_REPLY:
            self._tracing.answered(node_id, request_id, status)
        return self._links.send(node_id, frame)

    def flush(self) -> None:
        """As `Transport.flush`."""
        self._links.flush()


def _finish(span: Span, code: str) -> None:
    span.set_attribute("fastkv.code", code)
    if code not in _NO_FAULT:
        span.set_status(StatusCode.ERROR, code)
    span.end()


def _remember(known: OrderedDict[tuple[str, int], T], key: tuple[str, int], value: T) -> None:
    known[key] = value
    if len(known) > BATCHES_LIMIT:
        known.popitem(last=False)
