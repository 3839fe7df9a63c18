"""Every command as plain data, for whoever renders it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

import click

VERBATIM = "\b"
"""click's mark of a paragraph whose lines are to stay as they are."""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Some text: to be filled, or, where it is `verbatim`, line by line."""

    lines: tuple[str, ...]
    verbatim: bool

    @property
    def text(self) -> str:
        """The lines as one."""
        return " ".join(self.lines)


@dataclass(frozen=True, slots=True)
class Option:
    """An option as a person types it."""

    spelling: str
    """As in `-h, --help` or `--limit INTEGER RANGE`."""
    help: str
    """What it does, with default, range and variable."""

    @property
    def is_help(self) -> bool:
        """Whether it is `--help`, which every command has."""
        return self.spelling.endswith("--help")


@dataclass(frozen=True, slots=True)
class Command:
    """One command or group of them."""

    name: str
    """With its groups, as in `fastkv cluster up`."""
    usage: str
    """What comes behind the name, as in `[OPTIONS] KEY VALUE`."""
    paragraphs: tuple[Paragraph, ...]
    options: tuple[Option, ...]

    @property
    def summary(self) -> str:
        """The first sentence."""
        text = self.paragraphs[0].text
        return text if text.endswith(("!", "?")) else text.split(". ")[0].rstrip(".")

    @property
    def examples(self) -> tuple[str, ...]:
        """The lines of its example."""
        return tuple(
            line.strip() for paragraph in self.paragraphs if is_example(paragraph) for line in paragraph.lines[1:]
        )


def is_example(paragraph: Paragraph) -> bool:
    """Whether a paragraph is the command's example."""
    return paragraph.verbatim and paragraph.lines[0].strip() == "Example:"


def commands(group: click.Command, name: str = "fastkv", parent: click.Context | None = None) -> Iterator[Command]:
    """`group` and all below it, in the order of the alphabet, each group before its own."""
    context = click.Context(group, info_name=name.rpartition(" ")[2], parent=parent, **group.context_settings)
    below: list[tuple[str, click.Command]] = []
    if isinstance(group, click.Group):
        for sub in sorted(group.list_commands(context)):
            found = group.get_command(context, sub)
            assert found is not None, f"{name} lists {sub} and does not have it"
            if not found.hidden:
                below.append((sub, found))
    yield _described(group, name, context)
    for sub, found in below:
        yield from commands(found, f"{name} {sub}", context)


def _described(command: click.Command, name: str, context: click.Context) -> Command:
    return Command(
        name=name,
        usage=" ".join(command.collect_usage_pieces(context)),
        paragraphs=tuple(_paragraphs(command.help or "")),
        options=tuple(_options(command, context)),
    )


def _paragraphs(text: str) -> Iterator[Paragraph]:
    for block in inspect.cleandoc(text).split("\n\n"):
        lines = block.strip("\n").splitlines()
        if lines and lines[0].strip() == VERBATIM:
            yield Paragraph(tuple(lines[1:]), verbatim=True)
        elif lines:
            yield Paragraph(tuple(line.strip() for line in lines), verbatim=False)


def _options(command: click.Command, context: click.Context) -> Iterator[Option]:
    """Written here and not by click, whose wording of defaults and ranges is another in each of its versions."""
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option) and not parameter.hidden:
            names = ", ".join([*parameter.opts, *parameter.secondary_opts])
            value = "" if parameter.is_flag else f" {_value(parameter)}"
            yield Option(names + value, " ".join(_help(parameter)))


def _value(option: click.Option) -> str:
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    if isinstance(option.type, click.Path):
        return "FILE" if option.type.file_okay else "DIR"
    return {"integer": "N", "float": "NUMBER"}.get(option.type.name.removesuffix(" range"), "TEXT")


def _help(option: click.Option) -> Iterator[str]:
    if option.is_eager and "--help" in option.opts:
        yield "Show this message and exit."
        return
    if option.help:
        yield option.help
    facts = []
    if option.show_default:
        facts.append(f"default: {option.default}")
    if isinstance(option.type, click.IntRange | click.FloatRange):
        facts += _range(option.type)
    if option.envvar:
        facts.append(f"also {option.envvar}")
    if facts:
        yield f"[{'; '.join(facts)}]"


def _range(limits: click.IntRange | click.FloatRange) -> Iterator[str]:
    if limits.min is not None and limits.max is not None:
        yield f"{limits.min} to {limits.max}"
    elif limits.min is not None:
        yield f"above {limits.min}" if limits.min_open else f"{limits.min} or more"
