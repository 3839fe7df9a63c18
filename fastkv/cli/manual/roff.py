"""The manual as a man page, in the man(7) macros."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fastkv.cli.manual.described import Command, Paragraph

EXIT_STATUS = (
    ("0", "done"),
    ("1", "failed; an error names what, and a hint what to do"),
    ("2", "wrong usage or configuration"),
    ("3", "not found"),
    ("4", "no leader, or no node that answers: nothing was done"),
    ("5", "unknown: the write may or may not have been done"),
)
FILES = (
    ("config/multi-node-cluster.yaml", "an example of a configuration; docs/configuration.md lists every key"),
    ("./data/NODE_ID", "a node's data directory"),
)


def man_page(described: Iterable[Command], version: str, environment: Iterable[tuple[str, str]]) -> str:
    """The page `fastkv.1`. `environment` are the variables that nodes and commands read, and what each sets."""
    every = list(described)
    root = every[0]
    lines = [
        f'.TH FASTKV 1 "" "fastkv {version}" "User Commands"',
        ".SH NAME",
        r"fastkv \- " + _plain("a replicated, strongly consistent key-value store"),
        ".SH SYNOPSIS",
        ".B fastkv",
        ".I COMMAND",
        "[OPTIONS] [ARGUMENTS]",
        ".SH DESCRIPTION",
        *_paragraphs(root.paragraphs),
        ".PP",
        "Every command has",
        r".BR \-\-help .",
        ".SH COMMANDS",
    ]
    for command in every[1:]:
        lines += _section(command)
    lines += [".SH EXIT STATUS", *_terms(EXIT_STATUS), ".SH ENVIRONMENT", *_terms(environment)]
    lines += [".SH FILES", *_terms(FILES)]
    return "\n".join(lines) + "\n"


def _section(command: Command) -> Iterator[str]:
    yield f'.SS "{_plain(f"{command.name} {command.usage}")}"'
    yield from _paragraphs(command.paragraphs)
    yield from _terms((option.spelling, option.help) for option in command.options if not option.is_help)


def _paragraphs(paragraphs: Iterable[Paragraph]) -> Iterator[str]:
    for number, paragraph in enumerate(paragraphs):
        if number:
            yield ".PP"
        if paragraph.verbatim:
            yield ".nf"
            yield from map(_plain, paragraph.lines)
            yield ".fi"
        else:
            yield _plain(paragraph.text)


def _terms(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, text in pairs:
        yield ".TP"
        yield f'.B "{_plain(term)}"'
        yield _plain(text) or r"\&"


def _plain(text: str) -> str:
    """Text that roff takes for nothing else: its escapes, quotes and control lines."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq").replace("'", r"\(aq")
    text = text.replace("`", r"\(ga").replace("…", "...").replace("~", r"\(ti").replace("^", r"\(ha")
    return r"\&" + text if text.startswith(".") else text
