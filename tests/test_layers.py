"""Nothing imports upwards: the arrows of docs/architecture/README.md, checked against every import in the sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fastkv"

LEAVES = {"config", "errors", "log_types", "logs", "version"}
LOWER = {"_core", "kv", "raft", "storage", "wire"}
MAY_IMPORT: dict[str, set[str]] = {
    "_core": set(),
    "version": set(),
    "log_types": {"_core"},
    "errors": {"_core"},
    "config": {"errors", "version"},
    "logs": {"config"},
    "raft": {"_core", "log_types"},
    "storage": {"_core", *LEAVES},
    "wire": {"_core", *LEAVES},
    "kv": {"_core", "wire", *LEAVES},
    "node": {*LOWER, *LEAVES},
    "server": {"node", *LOWER, *LEAVES},
    "client": {"_core", "wire", *LEAVES},
    "chaos": {"_core", "client", "wire", *LEAVES},
    "cli": {"_core", "chaos", "client", "server", "wire", *LEAVES},
    "__init__": {"client", "errors", "version"},
    "__main__": {"cli"},
}
"""A package, and what of fastkv it may import beside itself."""

PORTS = {("storage", "fastkv.kv.store")}
"""The exception: the state machine states what it needs of a store, and storage provides it."""

RAFT_MAY_IMPORT = {
    "__future__", "bisect", "collections", "collections.abc", "dataclasses", "enum", "fastkv._core.append",
    "fastkv._core.codes",
    "fastkv._core.entry", "fastkv.log_types", "itertools", "json", "math", "operator", "random", "typing",
}  # fmt: skip
"""Everything that consensus may know of: no clock, no sockets, no files, no threads."""


def layer_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports_of(source: str, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Every module that a source imports, with the line: at the top, in a function, or for type checking only."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module == "fastkv":
                yield from ((node.lineno, f"fastkv.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def imported(path: Path) -> Iterator[tuple[int, str]]:
    return imports_of(path.read_text(), path.relative_to(ROOT).parent.parts)


PYTHON_FILES = sorted(PACKAGE.rglob("*.py"))
CYTHON_FILES = sorted([*PACKAGE.rglob("*.pyx"), *PACKAGE.rglob("*.pxd")])


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_package_has_its_place() -> None:
    assert {layer_of(path) for path in PYTHON_FILES} <= MAY_IMPORT.keys()


@pytest.mark.parametrize("path", PYTHON_FILES, ids=short)
def test_nothing_imports_upwards(path: Path) -> None:
    own = layer_of(path)
    for line, module in imported(path):
        parts = module.split(".")
        if parts[0] == "fastkv":
            target = parts[1] if len(parts) > 1 else "__init__"
            allowed = target == own or target in MAY_IMPORT[own] or (own, module) in PORTS
            assert allowed, f"{short(path)}:{line} imports {module}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "raft").rglob("*.py")), ids=short)
def test_consensus_knows_no_world(path: Path) -> None:
    for line, module in imported(path):
        inside = module == "fastkv.raft" or module.startswith("fastkv.raft.")
        assert inside or module in RAFT_MAY_IMPORT, f"{short(path)}:{line} imports {module}"
    drawn = set(re.findall(r"\brandom\.(\w+)", path.read_text()))
    assert drawn <= {"Random"}, "randomness is injected, never taken from the module's own generator"


SYNCHRONOUS = sorted(path for package in ("raft", "kv", "node") for path in (PACKAGE / package).rglob("*.py"))


@pytest.mark.parametrize("path", SYNCHRONOUS, ids=short)
def test_what_decides_never_waits(path: Path) -> None:
    """Every message is handled one at a time: nothing can come between a check and the change that relies on it."""
    waits = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
    found = [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, waits)]
    assert not found


@pytest.mark.parametrize("path", CYTHON_FILES, ids=short)
def test_the_compiled_core_is_a_leaf(path: Path) -> None:
    modules = re.findall(r"^\s*(?:from|c?import)\s+(fastkv[\w.]*)", path.read_text(), re.MULTILINE)
    assert all(module.startswith("fastkv._core") for module in modules), modules


def test_the_check_sees_imports_wherever_they_stand() -> None:
    source = """
import os.path
def f():
    from fastkv import raft
    from fastkv.kv.state import x
from . import sibling
from ..server import tcp
from .. import cli
"""
    found = [module for _, module in imports_of(source, ("fastkv", "node"))]
    assert sorted(found) == sorted(
        ["os.path", "fastkv.raft", "fastkv.kv.state", "fastkv.node", "fastkv.server", "fastkv.cli"]
    )
