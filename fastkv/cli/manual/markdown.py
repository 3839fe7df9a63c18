"""The manual as a page of Markdown: docs/cli.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fastkv.cli.manual.described import Command, Paragraph, is_example

HEAD = """\
<!-- Made by `scripts/docs.sh update` from the commands themselves (fastkv/cli/manual). Do not edit. -->
# The command line

`fastkv` is the same as `python -m fastkv`. Every command has `--help`. `--json` answers in JSON, errors too, and
`--endpoints` (or `FASTKV_ENDPOINTS`) says where the nodes are: raw-TCP addresses, of which one that answers is enough.
Colours and progress bars appear on a terminal only; `NO_COLOR` is respected.

| exit status | means |
|---|---|
| 0 | done |
| 1 | failed: an error names what, and a hint what to do |
| 2 | wrong usage or configuration |
| 3 | not found |
| 4 | no leader, or no node that answers: nothing was done |
| 5 | unknown: the write may or may not have been done |

An error is a line on standard error, `error: …`, with a second one, `hint: …`, where there is something to do that the
first does not say. With `--json` it is `{"error", "code", "hint"}` on standard output. The codes are those of
[failures.md](failures.md).

Completion for bash, zsh and fish: `fastkv completion --help` says how. The man page: `fastkv man | man -l -`.
"""


def markdown_page(described: Iterable[Command]) -> str:
    """The whole page."""
    every = list(described)[1:]
    lines = [HEAD, "| command | does |", "|---|---|"]
    lines += [f"| [`{command.name}`](#{_anchor(command.name)}) | {_cell(command.summary)} |" for command in every]
    for command in every:
        lines += _section(command)
    return "\n".join(lines) + "\n"


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


def _section(command: Command) -> Iterator[str]:
    yield f"\n## {command.name}\n"
    yield f"```text\n{command.name} {command.usage}\n```\n"
    for paragraph in command.paragraphs:
        yield from _paragraph(paragraph)
    options = [option for option in command.options if not option.is_help]
    if options:
        yield "| option | meaning |"
        yield "|---|---|"
        for option in options:
            yield f"| `{_cell(option.spelling)}` | {_cell(_escaped(option.help))} |"


def _paragraph(paragraph: Paragraph) -> Iterator[str]:
    if is_example(paragraph):
        body = "\n".join(line.strip() for line in paragraph.lines[1:])
        yield f"```text\n{body}\n```\n"
    elif paragraph.verbatim:
        body = "\n".join(paragraph.lines)
        yield f"```text\n{body}\n```\n"
    else:
        yield "\n".join(map(_escaped, paragraph.lines)) + "\n"


def _escaped(text: str) -> str:
    """Text in which Markdown sees no emphasis and no HTML; what stands in backquotes stays."""
    parts = text.split("`")
    parts[::2] = [part.replace("*", r"\*").replace("<", "&lt;").replace("_", r"\_") for part in parts[::2]]
    return "`".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
