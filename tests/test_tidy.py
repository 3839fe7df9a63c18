"""What a reader may count on in every file: it is short, says what it is for, and not where it was written."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SKIPPED = {".git", ".venv", ".coverage", "build", "dist", "data", "__pycache__", "node_modules"}
"""Not ours to keep tidy; beside these, every directory of a tool's cache (.pytest_cache, …) and of package metadata."""
TEXT = {
    ".cfg", ".css", ".html", ".in", ".ini", ".js", ".json", ".md", ".pxd", ".py", ".pyi", ".pyx", ".sh", ".toml",
    ".txt", ".yaml", ".yml", "",
}  # fmt: skip
CODE = {".css", ".html", ".js", ".pxd", ".py", ".pyi", ".pyx", ".sh"}

LINES_LIMIT = 450
# Spelled so that this file does not contain them.
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")
MACHINE = re.compile(r"(?<![\w.])/(wo" + r"rk|ro" + r"ot|ho" + r"me|Us" + r"ers|op" + r"t)/\w")


def _walk() -> Iterator[Path]:
    for directory, subdirectories, names in os.walk(ROOT):
        subdirectories[:] = sorted(
            name for name in subdirectories if name not in SKIPPED and not name.endswith((".egg-info", "_cache"))
            and not (name.startswith(".") and name != ".ci")
        )
        names = sorted(name for name in names if Path(name).suffix in TEXT and name not in SKIPPED)
        yield from (Path(directory) / name for name in names)


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


FILES = list(_walk())
CODE_FILES = [path for path in FILES if path.suffix in CODE]
PYTHON_FILES = [path for path in FILES if path.suffix == ".py"]
SCRIPTS = [path for path in FILES if path.suffix == ".sh" or short(path) == ".ci/run"]
PAGES = [path for path in FILES if path.suffix == ".md"]


def test_there_is_something_to_check() -> None:
    assert len(CODE_FILES) > 50
    assert {"fastkv/cli/__init__.py", "README.md", "scripts/lib.sh", ".ci/run"} <= {short(path) for path in FILES}


@pytest.mark.parametrize("path", CODE_FILES, ids=short)
def test_a_file_is_one_concept(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= LINES_LIMIT, f"{len(lines)} lines: split it"


@pytest.mark.parametrize("path", FILES, ids=short)
def test_the_text_is_clean(path: Path) -> None:
    text = path.read_bytes().decode()
    assert "\r" not in text
    assert not text or text.endswith("\n"), "no newline at the end"
    assert not re.search(r"[ \t]+$", text, re.MULTILINE), "spaces at the end of a line"
    assert "\t" not in text, "tabs"


@pytest.mark.parametrize("path", [path for path in FILES if path.name != "LICENSE"], ids=short)
def test_nothing_is_left_for_later_and_no_machine_is_named(path: Path) -> None:
    text = path.read_text()
    assert not UNFINISHED.search(text)
    assert not MACHINE.search(text)


def _undocumented(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    if not ast.get_docstring(tree) and tree.body:
        yield "the module"
    for node in tree.body if path.is_relative_to(ROOT / "fastkv") else ():
        is_definition = isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if is_definition and not node.name.startswith("_") and not ast.get_docstring(node):
            yield node.name


@pytest.mark.parametrize("path", PYTHON_FILES, ids=short)
def test_what_is_public_says_what_it_is_for(path: Path) -> None:
    assert not list(_undocumented(path))


@pytest.mark.parametrize("path", [path for path in CODE_FILES if path.suffix == ".pyx"], ids=short)
def test_a_compiled_module_says_what_it_is_for_and_has_its_stub(path: Path) -> None:
    assert re.match(r'"""\S', path.read_text()), "no docstring"
    assert path.with_suffix(".pyi").exists(), "no .pyi beside it, so nobody knows its Python face"


@pytest.mark.parametrize("path", [path for path in CODE_FILES if path.suffix == ".pxd"], ids=short)
def test_a_declaration_file_begins_with_what_it_is_for(path: Path) -> None:
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", PAGES, ids=short)
def test_a_page_s_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith(("#", "mailto:")):
            continue
        assert (path.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("path", SCRIPTS, ids=short)
def test_a_script_can_be_run_and_stops_at_a_failure(path: Path) -> None:
    text = path.read_text()
    if path.name == "lib.sh":
        assert text.startswith("# shellcheck shell=bash\n"), "sourced, so no program of its own"
        return
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text
    assert os.access(path, os.X_OK), "not executable"
