"""`/console`: a page that shows the cluster and its keys, for people.

The page is a handful of files beside this module, read once and served as they are. It asks the same routes as anybody:
`/cluster/overview` for the cluster and `/kv` for the keys, of the node that serves it and of nobody else. The headers
see to that: the browser is told to load nothing from elsewhere, to run nothing that is not one of these files, to make
no text into markup, and to show the page in no other site's frame.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import NamedTuple

from fastkv.server.http.context import Context
from fastkv.server.http.params import Params
from fastkv.server.http.request import Request
from fastkv.server.http.responses import NO_STORE, HttpError

DIRECTORY = Path(__file__).parent / "console_files"
TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
PAGE = "index.html"

HEADERS = (
    b"Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    b"trusted-types 'none'; require-trusted-types-for 'script'\r\n"
    b"X-Content-Type-Options: nosniff\r\n"
    b"X-Frame-Options: DENY\r\n"
    b"Referrer-Policy: no-referrer\r\n"
    b"Cross-Origin-Opener-Policy: same-origin\r\n"
    b"Cross-Origin-Resource-Policy: same-origin\r\n"
    b"Vary: Accept-Encoding\r\n"
    + NO_STORE
)
"""No store: after an upgrade no browser is to run one version's script in another's page."""


class File(NamedTuple):
    """One file of the page: its type, and its content as it is and compressed."""

    content_type: bytes
    content: bytes
    gzipped: bytes


def _read() -> dict[bytes, File]:
    files = {}
    for path in sorted(DIRECTORY.iterdir()):
        route = "/console" if path.name == PAGE else f"/console/{path.name}"
        content = path.read_bytes()
        files[route.encode()] = File(TYPES[path.suffix], content, gzip.compress(content, mtime=0))
    return files


FILES = _read()
"""Every file, by the path that it is asked for by."""


def page(context: Context, request: Request) -> None:
    """`GET /console`, and what belongs to it."""
    Params(request.query, ())
    if not context.service.config.console.enabled:
        raise HttpError(404, "NOT_FOUND", "this node has no console: console.enabled is false")
    content_type, content, gzipped = FILES[request.path]
    headers = HEADERS
    if _takes_gzip(request.headers.get(b"accept-encoding", b"")):
        content = gzipped
        headers += b"Content-Encoding: gzip\r\n"
    request.respond(200, content, content_type=content_type, headers=headers)


def _takes_gzip(accepted: bytes) -> bool:
    """Whether an Accept-Encoding names gzip. One with a weight counts as not: who weighs can do without."""
    return b"gzip" in (coding.strip() for coding in accepted.lower().split(b","))
