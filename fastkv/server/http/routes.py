"""Which path and method goes to which handler, and what happens to a request that none of them takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from fastkv.server.http import cluster, console, kv, listing, members
from fastkv.server.http.context import Context
from fastkv.server.http.request import Request
from fastkv.server.http.responses import HttpError

Handler = Callable[[Context, Request], None]


class Route(NamedTuple):
    """One resource: the operation's name in the metrics and the handler, by method."""

    methods: Mapping[bytes, tuple[str, Handler]]
    allow: bytes
    """The Allow header of a 405."""


def _route(**handlers: tuple[str, Handler]) -> Route:
    methods = {method.encode(): handler for method, handler in handlers.items()}
    if b"GET" in methods:
        methods[b"HEAD"] = methods[b"GET"]
    return Route(methods, b"Allow: %b\r\n" % b", ".join(sorted(methods)))


KEY_PREFIX = b"/kv/"
KEY = _route(GET=("get", kv.get), PUT=("put", kv.put), DELETE=("delete", kv.delete))
MEMBER = _route(
    PUT=("member_update", members.update),
    DELETE=("member_remove", members.remove),
    POST=("member_promote", members.promote),
)
ROUTES: dict[bytes, Route] = {
    b"/": _route(GET=("root", cluster.root)),
    b"/kv": _route(GET=("scan", listing.list_keys)),
    b"/cluster/status": _route(GET=("cluster_status", cluster.status)),
    b"/cluster/overview": _route(GET=("cluster_overview", cluster.overview)),
    b"/cluster/leader": _route(GET=("cluster_leader", cluster.leader), POST=("transfer", members.transfer)),
    b"/cluster/members": _route(GET=("members", members.members), POST=("member_add", members.add)),
    b"/cluster/nodes": _route(GET=("cluster_nodes", cluster.nodes)),
    b"/cluster/log": _route(GET=("log", cluster.log)),
    b"/health": _route(GET=("health", cluster.health)),
    b"/livez": _route(GET=("livez", cluster.livez)),
    b"/readyz": _route(GET=("readyz", cluster.readyz)),
    b"/metrics": _route(GET=("metrics", cluster.metrics)),
    **{path: _route(GET=("console", console.page)) for path in console.FILES},
}
_SAFE = frozenset({b"GET", b"HEAD"})


def handle(context: Context, request: Request) -> None:
    """Have a request answered, whatever it is."""
    try:
        if request.failure is not None:
            raise request.failure
        path = request.path
        route = KEY if path.startswith(KEY_PREFIX) else ROUTES.get(path)
        if route is None and path.startswith(members.PREFIX):
            route = MEMBER
        if route is None:
            raise HttpError(404, "NOT_FOUND", "there is no such route; GET / lists them")
        method = route.methods.get(request.method)
        if method is None:
            raise HttpError(405, "METHOD_NOT_ALLOWED", "this route does not take that method", headers=route.allow)
        request.op, handler = method
        if request.method not in _SAFE and b"origin" in request.headers:
            _refuse_other_sites(request)
        handler(context, request)
    except HttpError as error:
        request.fail(error)
    except Exception:
        request.broken()


def _refuse_other_sites(request: Request) -> None:
    """Refuse what another site's page has a browser send here.

    Browsers ask before they send a PUT or DELETE across origins, and are not answered. A POST they send at once, as
    from a form, with the user's way into the network; but they say which page it comes from. Others send no Origin.
    """
    origin = request.headers[b"origin"].partition(b"://")[2]
    if origin.lower() != request.headers.get(b"host", b"").lower():
        raise HttpError(403, "CROSS_ORIGIN", "a page of another site asked for this; nothing was done")
