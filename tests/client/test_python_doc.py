"""The examples of docs/python.md run, against a fake node."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.client.fake_node import FakeNode, threaded

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def test_every_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(EXAMPLES) == 4
    with threaded(FakeNode()) as node:
        namespace: dict[str, object] = {}
        for example in EXAMPLES:
            example = re.sub(r'"localhost:9001[^"]*"', repr(node.address), example)
            exec(example.replace("10_000", "1_000"), namespace)  # the fake node is no fast one
    assert node.state.records[b"config"].value == b"FIRST"
    assert node.state.records[b"ticket:1"].value == b"mine"
    said = capsys.readouterr().out.splitlines()
    assert said == ["b'user:john' John Doe", "b'k0' b'v'", "b'k1' b'v'", "b'k10' b'v'"]


def test_the_page_names_every_error_that_callers_meet() -> None:
    import fastkv

    page = PAGE.read_text()
    for name in fastkv.__all__:
        value = getattr(fastkv, name)
        if isinstance(value, type) and issubclass(value, fastkv.FastKVError):
            assert f"`{name}`" in page or f"`fastkv.{name}`" in page, name
