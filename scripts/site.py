"""What mkdocs is told of this repository: where pages go that its navigation does not name, and files beside docs/.

On GitHub such a link leads to the file in the repository, on the site to a copy of it under `repository/`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
COPIES = "repository"
NAMED_FENCE = re.compile(r"^```\w+ [\w-]+$", re.MULTILINE)
LINK = re.compile(r"\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")


def _beside(page: str, target: str) -> Path | None:
    """The file of the repository that a page links to; None where it is one of docs/."""
    path = Path(os.path.normpath(ROOT / "docs" / PurePosixPath(page).parent / target))
    return path if path.is_file() and not path.is_relative_to(ROOT / "docs") else None


def on_config(config: Any) -> Any:
    """Complete the navigation: every decision by its number, and under *Further* what nobody has given a place yet."""
    docs = Path(config["docs_dir"])
    pages = [path.relative_to(docs).as_posix() for path in sorted(docs.rglob("*.md"))]
    decisions = ["adr/README.md", *(page for page in pages if page.startswith("adr/0"))]
    config["nav"].append({"Decisions": decisions})
    placed = set(_pages(config["nav"]))
    rest = [page for page in pages if page not in placed]
    if rest:
        config["nav"].append({"Further": rest})
    return config


def _pages(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from _pages(part)


def on_files(files: Files, config: Any) -> Files:
    """Add what pages link to."""
    wanted = {
        path
        for file in list(files.documentation_pages())
        for target, _ in LINK.findall(Path(str(file.abs_src_path)).read_text())
        if (path := _beside(file.src_uri, target)) is not None
    }
    for path in sorted(wanted):
        uri = f"{COPIES}/{path.relative_to(ROOT)}"
        # As bytes: a Markdown page of the repository would else become one of the site.
        files.append(File.generated(config, f"{uri}.txt" if path.suffix == ".md" else uri, content=path.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let links to the repository lead to the copies. A fence's second word is for the tests, and unknown to mkdocs."""
    markdown = NAMED_FENCE.sub(r"```text", markdown)

    def moved(match: re.Match[str]) -> str:
        path = _beside(page.file.src_uri, match[1])
        if path is None:
            return match[0]
        up = "../" * (len(PurePosixPath(page.file.src_uri).parts) - 1)
        copy = f"{up}{COPIES}/{path.relative_to(ROOT)}"
        return f"]({copy}.txt)" if path.suffix == ".md" else f"]({copy})"

    return LINK.sub(moved, markdown)
