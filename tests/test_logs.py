"""Every line says which node speaks, what it is, and in which term; and nothing can forge a line."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest

from fastkv.config import LoggingSettings
from fastkv.logs import set_node_context, setup_logging


@pytest.fixture(autouse=True)
def _restore_root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = sys.excepthook, threading.excepthook
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook = hooks
    logging.captureWarnings(False)


def logged(settings: LoggingSettings, *, error: BaseException | None = None, message: str = "hello") -> str:
    out = io.StringIO()
    setup_logging(settings, "node-7", out)
    set_node_context(term=42, role="Leader")
    logging.getLogger("fastkv.test").info(message, exc_info=error, extra={"peer": "node-2", "missing": None})
    return out.getvalue()


def test_console_line() -> None:
    line = logged(LoggingSettings())
    assert re.fullmatch(
        r"node-7 Leader +42 \| \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info +hello peer=node-2\n", line
    ), line


def test_json_line() -> None:
    line = json.loads(logged(LoggingSettings(format="json")))
    time = line.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
    assert line == {
        "level": "info", "node": "node-7", "role": "Leader", "term": 42, "logger": "fastkv.test", "message": "hello",
        "peer": "node-2",
    }


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_message_cannot_forge_a_line(style: str) -> None:
    text = logged(LoggingSettings(format=style), message="key a\nnode-1 Leader 9 | forged\x1b[2J")
    assert text.count("\n") == 1
    assert "\x1b" not in text


def test_traceback_is_kept() -> None:
    error = KeyError("gone")
    assert "KeyError: 'gone'" in logged(LoggingSettings(), error=error)
    line = logged(LoggingSettings(format="json"), error=error)
    assert line.count("\n") == 1
    assert "KeyError: 'gone'" in json.loads(line)["exception"]


def test_level_leaves_out_what_is_less_important() -> None:
    assert logged(LoggingSettings(level="warning")) == ""


def test_extra_cannot_replace_a_field_of_every_line() -> None:
    out = io.StringIO()
    setup_logging(LoggingSettings(format="json"), "node-7", out)
    logging.getLogger("x").warning("hello", extra={"node": "somebody else"})
    assert json.loads(out.getvalue())["node"] == "node-7"


@pytest.mark.parametrize("odd", ["a \udcff path", 1 << 70, b"\xff", {1: object()}])
def test_whatever_a_line_is_about_it_is_json(odd: object) -> None:
    stream = io.StringIO()
    setup_logging(LoggingSettings(format="json"), "node-1", stream)
    logging.getLogger("test").info("hello", extra={"odd": odd})
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["message"] == "hello"


def test_what_nobody_has_caught_is_logged_like_the_rest() -> None:
    stream = io.StringIO()
    setup_logging(LoggingSettings(format="json"), "node-1", stream)

    def fails() -> None:
        raise ValueError("in a thread")

    thread = threading.Thread(target=fails)
    thread.start()
    thread.join()
    try:
        raise KeyError("in the main thread")
    except KeyError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    warnings.warn("old ways", DeprecationWarning, stacklevel=1)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["level"] for line in lines] == ["critical", "critical", "warning"]
    assert "in a thread" in lines[0]["exception"]
    assert "in the main thread" in lines[1]["exception"]
    assert "old ways" in lines[2]["message"]
