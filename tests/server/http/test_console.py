"""The console's files as they are served: complete, closed to the world outside, small, and in the wheel."""

from __future__ import annotations

import dataclasses
import gzip
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastkv.config import NodeConfig
from fastkv.config.settings import ConsoleSettings
from fastkv.server.http import console
from tests.server.http.harness import Face

ROOT = Path(__file__).parents[3]
LIMIT_BYTES = 100_000
GZIPPED_LIMIT_BYTES = 40_000


def switched(**settings: bool) -> NodeConfig:
    return dataclasses.replace(NodeConfig(), console=ConsoleSettings(**settings))


# -- the files ---------------------------------------------------------------------------------------------------------


def test_the_page_is_small() -> None:
    assert sum(len(file.content) for file in console.FILES.values()) < LIMIT_BYTES
    assert sum(len(file.gzipped) for file in console.FILES.values()) < GZIPPED_LIMIT_BYTES


def test_every_file_is_needed_and_there() -> None:
    """What the page names, and what that imports, is what there is."""
    named, unread = set(), {b"/console"}
    while unread:
        path = unread.pop()
        named.add(path)
        text = console.FILES[path].content.decode()
        found = re.findall(r'(?:src|href)="(console/[^"]+)"', text) if path == b"/console" else []
        found += [f"console/{name}" for name in re.findall(r"from '\./([^']+)'", text)]
        unread |= {f"/{name}".encode() for name in found} - named
    assert named == console.FILES.keys()


@pytest.mark.parametrize("path", console.FILES)
def test_nothing_comes_from_elsewhere_and_no_text_becomes_markup(path: bytes) -> None:
    text = console.FILES[path].content.decode()
    assert set(re.findall(r"\bhttps?://[^\s'\"]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text)
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=", text), "the policy would forbid it"


def test_the_wheel_has_the_page(tmp_path: Path) -> None:
    """As setuptools sees the package: it is asked, in a process of its own, what it would build."""
    asked = """
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution
distribution = Distribution({"script_name": "setup.py"})
distribution.parse_config_files(["pyproject.toml"])
command = build_py(distribution)
command.build_lib = "lib"
command.ensure_finalized()
print("\\n".join(command.get_outputs(include_bytecode=0)))
"""
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True)
    built = {Path(line).relative_to("lib") for line in done.stdout.splitlines() if line.startswith("lib")}
    files = {path.relative_to(ROOT) for path in console.DIRECTORY.iterdir()}
    assert len(files) == len(console.FILES)
    assert files <= built
    assert Path("fastkv/server/http/console.py") in built


# -- served ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", console.FILES)
def test_a_file_is_served_as_what_it_is_and_keeps_to_itself(face: Face, path: bytes) -> None:
    answer = face.request("GET", path.decode())
    assert (answer.status, answer.content) == (200, console.FILES[path].content)
    assert answer.headers["Content-Type"].encode() == console.FILES[path].content_type
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for part in ("script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"):
        assert part in policy.split("; ")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_who_takes_gzip_is_given_it(face: Face) -> None:
    plain = face.request("GET", "/console").content
    answer = face.request("GET", "/console", headers={"Accept-Encoding": "br, gzip, deflate"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert len(answer.content) < len(plain)
    assert gzip.decompress(answer.content) == plain
    assert "Content-Encoding" not in face.request("GET", "/console", headers={"Accept-Encoding": "gzip;q=0"}).headers


def test_there_is_nothing_else_below_it(face: Face) -> None:
    for path in ("/console/", "/console/..", "/console/%2e%2e/kv", "/console/nothing.js", "/console/index.html"):
        assert face.request("GET", path).status == 404, path
    assert face.request("POST", "/console").status == 405
    assert face.request("HEAD", "/console").status == 200
    assert face.request("GET", "/console?x=1").json["code"] == "INVALID_PARAMETER"


def test_it_can_be_switched_off(face: Face) -> None:
    face.service.config = switched(enabled=False)
    for path in console.FILES:
        answer = face.request("GET", path.decode())
        assert (answer.status, answer.json["code"]) == (404, "NOT_FOUND")
        assert "console.enabled" in answer.json["error"]


def test_the_overview_is_the_service_s_and_is_not_kept(face: Face) -> None:
    answer = face.request("GET", "/cluster/overview")
    assert answer.json == face.service.overview()
    assert answer.headers["Cache-Control"] == "no-store"


# -- other sites -------------------------------------------------------------------------------------------------------

FORM = {"Content-Type": "text/plain"}


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1"])
def test_a_page_of_another_site_changes_nothing(face: Face, origin: str) -> None:
    headers = {**FORM, "Origin": origin}
    for method, path, body in [
        ("POST", "/cluster/leader", '{"to": "node-2"}'),
        ("POST", "/cluster/members", '{"id": "node-9", "raft": "evil.example:9001"}'),
        ("POST", "/cluster/members/node-9/promote", None),
        ("PUT", "/kv/a", "x"),
        ("DELETE", "/kv/a", None),
    ]:
        answer = face.request(method, path, body, headers)
        assert (answer.status, answer.json["code"]) == (403, "CROSS_ORIGIN"), (method, path)
    assert face.service.asked == []


def test_the_node_s_own_page_and_who_is_no_browser_may_write(face: Face) -> None:
    own = {"Origin": f"http://127.0.0.1:{face.port}"}
    assert face.request("PUT", "/kv/a", "x", own).status == 201
    assert face.request("DELETE", "/kv/a", None, own).status == 200
    assert face.request("POST", "/cluster/leader", '{"to": "node-2"}', own).status == 200
    assert face.request("PUT", "/kv/a", "x").status == 201


def test_no_answer_lets_another_site_read_or_ask(face: Face) -> None:
    face.request("PUT", "/kv/a", "x")
    other = {"Origin": "http://evil.example", "Access-Control-Request-Method": "PUT"}
    for method, path in [("GET", "/kv/a"), ("GET", "/cluster/overview"), ("OPTIONS", "/kv/a")]:
        answer = face.request(method, path, headers=other)
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
    assert face.request("OPTIONS", "/kv/a", headers=other).status in (403, 405), "what the browser asks before a PUT"
