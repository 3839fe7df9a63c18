"""How commands speak: exit codes, an error and what to do about it, JSON with `--json`, colour only on a terminal."""

from __future__ import annotations

import base64
import contextlib
import enum
import os
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import click
import orjson

from fastkv.cli.advice import advice
from fastkv.errors import ConfigError, FastKVError, OutcomeUnknown, Overloaded, RequestError, Timeout, Unavailable


class Exit(enum.IntEnum):
    """What a command's exit status says."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    """No leader, or no node that answers. A write that ends so was certainly not done."""
    UNKNOWN = 5
    """A write that may or may not have been done."""


def exit_for(error: FastKVError) -> Exit:
    """The exit status that stands for an error."""
    if isinstance(error, OutcomeUnknown):
        return Exit.UNKNOWN
    if isinstance(error, (Unavailable, Timeout, Overloaded)):
        return Exit.UNREACHABLE
    return Exit.USAGE if isinstance(error, (ConfigError, RequestError)) else Exit.FAILED


def say_json(value: Any) -> None:
    """Print one JSON document on a line of its own."""
    click.echo(orjson.dumps(value).decode())


def fail(message: str, code: str, status: Exit, *, as_json: bool = False, **more: Any) -> NoReturn:
    """End with an error and what to do about it: lines on stderr for a person, or a JSON document on stdout."""
    say_error(message, code, as_json=as_json, **more)
    sys.exit(status)


def say_error(message: str, code: str, *, as_json: bool = False, **more: Any) -> None:
    """Print an error, and a hint where its own text does not say what to do."""
    hint = advice(code)
    if as_json:
        say_json({"error": message, "code": code, **({"hint": hint} if hint else {}), **more})
        return
    click.echo(f"{click.style('error:', fg='red', bold=True)} {message}", err=True)
    if hint:
        click.echo(f"{click.style('hint:', bold=True)} {hint}", err=True)


@contextlib.contextmanager
def reported(*, as_json: bool = False) -> Iterator[None]:
    """Turn fastkv's errors into an error line and an exit status. A bug keeps its traceback."""
    try:
        yield
    except FastKVError as error:
        revision = getattr(error, "revision", None)
        more = {} if revision is None else {"revision": revision}
        fail(str(error), error.code, exit_for(error), as_json=as_json, **more)


def argument_bytes(text: str) -> bytes:
    """A command-line argument as the bytes that the shell passed, whatever they are."""
    return os.fsencode(text)


def shown(data: bytes) -> str:
    """Bytes as one line of text: what is neither UTF-8 nor printable is escaped."""
    text = data.decode(errors="backslashreplace")
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def as_fields(name: str, data: bytes) -> dict[str, str]:
    """`{name: text}`, or `{name_base64: …}` where the bytes are not UTF-8: as on the HTTP face."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}
