"""The site: it builds, every link in it leads somewhere, and its pages ask nobody else for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FETCHED = re.compile(
    r"<(?:script|link|img|iframe|source|video|audio|object|embed)\b[^>]*\b(?:src|href|data)=[\"']?([^\"' >]+)"
)
NAMES = re.compile(r'xmlns(:\w+)?="[^"]*"|<!DOCTYPE[^>]*>|<metadata>.*?</metadata>', re.DOTALL)
"""Of formats: addresses that nobody asks."""


@pytest.mark.slow
def test_the_site_builds_strictly_and_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    built = {path.relative_to(tmp_path / "site").with_suffix("") for path in (tmp_path / "site").rglob("*.html")}
    pages = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    assert {path.with_name("index") if path.name == "README" else path for path in pages} <= built
    assert (tmp_path / "site/openapi.yaml").read_bytes() == (ROOT / "docs/openapi.yaml").read_bytes()
    assert (tmp_path / "site/repository/deploy/prometheus/alerts.yml").exists()
    for path in (tmp_path / "site").rglob("*.html"):
        for target in FETCHED.findall(path.read_text()):
            assert not re.match(r"(\w+:)?//", target), f"{path.name} fetches {target}"


def test_pictures_are_complete_in_themselves() -> None:
    for path in (ROOT / "docs/images").glob("*.svg"):
        assert not re.search(r"(href|url\(|src)[^>]{0,3}https?:", NAMES.sub("", path.read_text())), path.name


@pytest.mark.parametrize("name", ["concepts", "failures", "quickstart", "security", "cli", "http", "python"])
def test_the_readme_and_the_first_page_lead_to_every_page_for_users(name: str) -> None:
    assert f"(docs/{name}.md)" in (ROOT / "README.md").read_text()
    assert f"({name}.md)" in (ROOT / "docs/index.md").read_text()
