"""A configuration file as a tree that remembers its lines, so that an error can name the one that is wrong.

The YAML is composed, not loaded: each node keeps its mark, duplicate keys are seen, and nothing but plain scalars,
lists and mappings can come out of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from fastkv.errors import ConfigError

FILE_LIMIT_BYTES = 1 << 20


class Element:
    """One place in a file: what stands there, and where it is."""

    __slots__ = ("_node", "file", "line", "path")

    def __init__(self, node: yaml.Node, file: str, path: str, line: int) -> None:
        self._node = node
        self.file = file
        self.line = line
        """Where its key stands, counted from 1."""
        self.path = path
        """The dotted key, such as `raft.election_timeout_ms`; empty for the whole file."""

    @property
    def place(self) -> str:
        """`file:line` of this element."""
        return f"{self.file}:{self.line}"

    def error(self, problem: str) -> ConfigError:
        """An error about this element, to be raised."""
        key = f"{self.path}: " if self.path else ""
        return ConfigError(f"{self.place}: {key}{problem}")

    @property
    def is_mapping(self) -> bool:
        return isinstance(self._node, yaml.MappingNode)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is written here, as after a key whose children are all commented out."""
        return isinstance(self._node, yaml.ScalarNode) and self._node.value == "" and self._node.style is None

    def scalar(self) -> Any:
        """The text, number or truth value that stands here. ConfigError for a list or a mapping."""
        if not isinstance(self._node, yaml.ScalarNode):
            raise self.error("a list or a mapping stands where one value is expected")
        try:
            return yaml.constructor.SafeConstructor().construct_document(self._node)
        except (yaml.YAMLError, ValueError) as error:
            raise self.error(f"{self._node.value!r} cannot be read: {error}") from None

    def children(self) -> Iterator[tuple[str, Element]]:
        """The entries of a mapping, in order. ConfigError where this is none, or where a key stands twice."""
        if self.is_empty:
            return
        if not isinstance(self._node, yaml.MappingNode):
            raise self.error("a mapping is expected: lines of `key: value`, indented")
        seen: dict[str, str] = {}
        for key_node, value_node in self._node.value:
            key = str(key_node.value)
            path = f"{self.path}.{key}" if self.path else key
            child = Element(value_node, self.file, path, key_node.start_mark.line + 1)
            if key in seen:
                raise child.error(f"stands here for a second time, first at {seen[key]}")
            seen[key] = child.place
            yield key, child

    def known_children(self, allowed: Iterable[str]) -> Iterator[tuple[str, Element]]:
        """As `children`; ConfigError for a key that is not one of `allowed`."""
        names = list(allowed)
        for key, child in self.children():
            if key not in names:
                raise child.error(f"unknown key {key!r}{suggestion(key, names)}")
            yield key, child


def suggestion(word: str, known: Iterable[str]) -> str:
    """What to say after "unknown X": the likeliest of the known words, and all of them."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{meant} allowed are {', '.join(names)}"


def read_document(path: Path) -> Element | None:
    """The root of a file's tree; None for an empty file. ConfigError where it cannot be read or is no YAML."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    if len(text) > FILE_LIMIT_BYTES:
        raise ConfigError(f"{path}: {len(text)} bytes is no configuration; at most {FILE_LIMIT_BYTES} are read")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    return None if root is None else Element(root, str(path), "", root.start_mark.line + 1)
