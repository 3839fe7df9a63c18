"""The cluster's state, the node's health and metrics, and what there is to ask for."""

from __future__ import annotations

from typing import Any

from fastkv.server.http.context import Context
from fastkv.server.http.params import MAX_REVISION, Params
from fastkv.server.http.request import Request
from fastkv.server.http.responses import METRICS, NO_STORE, RETRY_AFTER, HttpError, json_body
from fastkv.version import __version__
from fastkv.wire.client import LOG_ENTRIES, MAX_LOG_ENTRIES

ENDPOINTS = {
    "PUT /kv/{key}": 'store a value: JSON {"value": …} or {"value_base64": …}, or the raw body of any other type',
    "GET /kv/{key}": "read a value",
    "DELETE /kv/{key}": "delete a key",
    "GET /kv": "list keys: prefix, start, end, limit, reverse, keys_only, cursor, consistency",
    "GET /cluster/status": "every node, its role and its term",
    "GET /cluster/overview": "every member with its lag, round trips and load, and who led when",
    "GET /cluster/leader": "the leader",
    "GET /cluster/nodes": "the nodes",
    "GET /cluster/members": "who belongs to the cluster, and as what",
    "POST /cluster/members": "add a member: JSON {id, raft, http, vote, replaces}",
    "PUT /cluster/members/{id}": "a member has moved: JSON {raft, http}",
    "DELETE /cluster/members/{id}": "remove a member",
    "POST /cluster/members/{id}/promote": "let a learner vote",
    "POST /cluster/leader": "hand leadership over: JSON {to}, or to whoever can take it best",
    "GET /cluster/log": "entries of this node's log: first, limit",
    "GET /health": "whether this node can serve, and how it is",
    "GET /livez": "whether the process works",
    "GET /readyz": "whether the node can serve requests",
    "GET /metrics": "metrics for Prometheus",
    "GET /console": "a page for people, in a browser",
}


def root(context: Context, request: Request) -> None:
    """`GET /`: what this is, and what one may ask it."""
    Params(request.query, ())
    config = context.service.config
    request.respond_json(
        200,
        {
            "service": "fastkv",
            "version": __version__,
            "node": config.node_id,
            "cluster": config.cluster.name,
            "endpoints": ENDPOINTS,
        },
    )


def status(context: Context, request: Request) -> None:
    """`GET /cluster/status`."""
    Params(request.query, ())
    request.respond_json(200, context.service.cluster_status())


def overview(context: Context, request: Request) -> None:
    """`GET /cluster/overview`: every member with its lag, round trip and load; what the console shows."""
    Params(request.query, ())
    request.respond_json(200, context.service.overview(), headers=NO_STORE)


def nodes(context: Context, request: Request) -> None:
    """`GET /cluster/nodes`: the nodes alone."""
    Params(request.query, ())
    known = context.service.cluster_status()
    request.respond_json(200, {"cluster_size": known["cluster_size"], "nodes": known["nodes"]})


def leader(context: Context, request: Request) -> None:
    """`GET /cluster/leader`: the node that leads, as `/cluster/status` describes it."""
    Params(request.query, ())
    for node in context.service.cluster_status()["nodes"].values():
        if node["is_leader"]:
            request.respond_json(200, node)
            return
    raise HttpError(503, "NO_LEADER", "no leader is known to this node", headers=RETRY_AFTER)


def log(context: Context, request: Request) -> None:
    """`GET /cluster/log`: entries of this node's own log, the newest by default."""
    params = Params(request.query, ("first", "limit"))
    first = params.number("first", 0, low=0, high=MAX_REVISION)
    limit = params.number("limit", LOG_ENTRIES, low=1, high=MAX_LOG_ENTRIES)
    request.respond_json(200, context.service.log(first, limit))


def health(context: Context, request: Request) -> None:
    """`GET /health`: everything a person wants to know first; 503 where a check fails."""
    Params(request.query, ())
    described = context.service.health()
    _answer(request, described, described)


def readyz(context: Context, request: Request) -> None:
    """`GET /readyz`: whether to send requests here; 503 and the checks that failed otherwise."""
    Params(request.query, ())
    described = context.service.health()
    _answer(request, described, {"status": described["status"], "checks": described["checks"]})


def livez(context: Context, request: Request) -> None:
    """`GET /livez`: whether the process works.

    That this answer is made is the check: the node's own loop makes it. A node whose disk or log fails for good does
    not go on answering, it exits; one that waits for a leader is alive, and restarting it would help nobody.
    """
    Params(request.query, ())
    request.respond_json(200, {"status": "ok"})


def metrics(context: Context, request: Request) -> None:
    """`GET /metrics`: Prometheus' text format."""
    request.respond(200, context.service.metrics(), content_type=METRICS)


def _answer(request: Request, described: dict[str, Any], body: dict[str, Any]) -> None:
    if described["status"] == "ok":
        request.respond(200, json_body(body))
        return
    failed = [name for name, passed in described["checks"].items() if not passed]
    message = f"this node cannot serve: {', '.join(failed)} failed"
    request.fail(HttpError(503, "UNAVAILABLE", message, members={**body, "failed": failed}, headers=RETRY_AFTER))
