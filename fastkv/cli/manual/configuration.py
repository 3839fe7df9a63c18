"""The tables of docs/configuration.md, made of the settings themselves; the text between them is written by hand."""

from __future__ import annotations

import re

from fastkv.config import NodeConfig
from fastkv.config.settings import GIB, KIB, MIB, SECTIONS, Rule, rules

ROW = re.compile(r"\| `([a-z_]+)\.([a-z_]+)` \|")
BY_HAND = {"cluster.data_dir", "cluster.nodes"}
"""Rows of settings that are no plain values."""


def rewritten(page: str) -> str:
    """The page with every section's table anew. ValueError where a section has none: it needs a heading and a text."""
    missing = SECTIONS.keys() - {match[1] for match in map(ROW.match, page.splitlines()) if match}
    if missing:
        raise ValueError(f"docs/configuration.md has no table for {', '.join(sorted(missing))}")
    lines: list[str] = []
    section = ""
    for line in page.splitlines():
        match = ROW.match(line)
        if match is None:
            section = ""
            lines.append(line)
        elif f"{match[1]}.{match[2]}" in BY_HAND:
            lines.append(line)
        elif match[1] != section:
            section = match[1]
            lines += [_row(section, key, rule) for key, rule in rules(SECTIONS[section]).items()]
    return "\n".join(lines) + "\n"


def _row(section: str, key: str, rule: Rule) -> str:
    default = _shown(getattr(getattr(NodeConfig(), section), key), rule.unit)
    allowed = f"{rule.minimum} to {rule.maximum}" if rule.kind is int else rule.allowed
    return f"| `{section}.{key}` | {default} | {rule.unit} | {allowed} | {rule.meaning} |"


def _shown(value: object, unit: str) -> str:
    if unit == "bytes" and isinstance(value, int):
        for size, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
            if value >= size and value % size == 0:
                return f"{value} ({value // size} {name})"
    return str(value).lower() if isinstance(value, bool) else str(value)
