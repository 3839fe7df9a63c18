"""The console's arithmetic, in the browser that runs it: keys as text, counters as rates, buckets as percentiles."""

from __future__ import annotations

import base64
import json
import random
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from fastkv.server.http.params import percent_decode
from tests.console.browser import Browser, Page
from tests.server.http.harness import Face

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def modules(browser: Browser) -> Iterator[Page]:
    """A page of an HTTP server without a cluster."""
    face = Face(uvloop.new_event_loop())
    opened = browser.open()
    try:
        opened.go(f"http://127.0.0.1:{face.port}/console")
        opened.until("document.querySelector('#keys')")
        yield opened
    finally:
        opened.close()
        face.close()


def run(page: Page, module: str, body: str, argument: Any = None) -> Any:
    """What a function body returns that has the module as `m` and the argument as `a`."""
    return page.js(f"import('/console/{module}').then((m) => ((m, a) => {{ {body} }})(m, {json.dumps(argument)}))")


def test_keys_are_written_so_that_they_can_be_read_back(modules: Page) -> None:
    drawn = random.Random(7)
    alphabet = [b"a", b"/", b":", b"\\", b"x4", b"%", b"\xff", b"\xc3", "ä".encode(), "🙂".encode(), b"\0", b"\n", b"."]
    keys = [b"".join(drawn.choices(alphabet, k=drawn.randrange(1, 12))) for _ in range(500)]
    keys += [drawn.randbytes(drawn.randrange(1, 64)) for _ in range(500)]
    encoded = [base64.b64encode(key).decode() for key in keys]
    answers = run(
        modules, "bytes.js",
        "return a.map(m.fromBase64).map((k) => [m.toBase64(m.parseKey(m.showKey(k))), m.percent(k), m.showKey(k)])",
        encoded,
    )  # fmt: skip
    assert [back for back, _, _ in answers] == encoded
    assert [percent_decode(path.encode()) for _, path, _ in answers] == keys
    unseen = {"Cc", "Cf", "Zl", "Zp"}
    assert not [shown for _, _, shown in answers if unseen & {unicodedata.category(letter) for letter in shown}]


def test_percentiles_of_buckets(modules: Page) -> None:
    def quantile(counts: list[int], q: float) -> float | None:
        found: float | None = run(modules, "history.js", "return m.quantile(a[0], a[1], a[2])", [[1, 2, 4], counts, q])
        return found

    assert quantile([0, 0, 0, 0], 0.5) is None
    assert quantile([100, 0, 0, 0], 0.5) == pytest.approx(0.5)
    assert quantile([0, 0, 10, 0], 0.5) == pytest.approx(3)
    assert quantile([50, 0, 50, 0], 0.99) == pytest.approx(2 + 2 * 0.98)
    assert quantile([0, 0, 0, 5], 0.99) == 4, "above the last bound nothing is known but that"


def view(at: int, *members: tuple[str, int, list[int] | None]) -> dict[str, Any]:
    """An overview, of members with an id, when they counted, and reads by bucket; there are twice as many writes."""
    described = [
        {
            "id": node_id,
            "counted_at_ms": counted,
            "load": reads and {"reads": reads, "writes": [2 * count for count in reads], "failed": 0},
        }
        for node_id, counted, reads in members
    ]
    return {"now_ms": at, "bounds_ms": [1, 10], "members": described}


def samples(page: Page, *views: dict[str, Any]) -> list[tuple[float | None, float | None]]:
    """Reads and writes a second, after each view."""
    body = "const h = new m.History(); return a.map((v) => { h.take(v); return [h.latest.reads, h.latest.writes] })"
    return [tuple(pair) for pair in run(page, "history.js", body, views)]


def test_rates_are_over_the_times_of_the_counters(modules: Page) -> None:
    found = samples(
        modules,
        view(1000, ("a", 1000, [100, 0, 0]), ("b", 600, [50, 0, 0])),
        view(2000, ("a", 2000, [110, 0, 0]), ("b", 600, [50, 0, 0])),
        view(3000, ("a", 3000, [120, 0, 0]), ("b", 2600, [70, 0, 0])),
    )
    assert found == [(None, None), (10, 20), (20, 40)]


def test_a_counter_that_begins_anew_is_no_negative_rate(modules: Page) -> None:
    found = samples(
        modules,
        view(1000, ("a", 1000, [100, 0, 0])),
        view(2000, ("a", 2000, [110, 0, 0])),
        view(3000, ("a", 3000, [3, 0, 0])),
        view(4000, ("a", 4000, None)),
        view(5000, ("a", 5000, [5, 0, 0])),
        view(6000, ("a", 6000, [6, 0, 0])),
    )
    assert found == [(None, None), (10, 20), (None, None), (None, None), (None, None), (1, 2)]


def test_a_time_without_looks_is_a_gap(modules: Page) -> None:
    body = "const h = new m.History(); a.forEach((v) => h.take(v)); return h.from(0).map((s) => [s.at, s.reads ?? 0])"
    views = [view(at, ("a", at, [at // 1000, 0, 0])) for at in (1000, 2000, 30_000, 31_000)]
    assert run(modules, "history.js", body, views) == [[1000, 0], [2000, 1], [29_999, 0], [30_000, 0], [31_000, 1]]
    back = [view(at, ("a", at, [1, 0, 0])) for at in (5000, 6000, 2000)]
    assert [at for at, _ in run(modules, "history.js", body, back)] == [2000], "the node's clock was set back"


def test_a_node_that_says_no_is_not_taken_for_one_that_is_silent(modules: Page) -> None:
    caught = run(
        modules, "api.js",
        "return m.get(new TextEncoder().encode('none')).catch((e) => [e.status, e.code, e.isUnknown])",
    )  # fmt: skip
    assert caught == [404, "KEY_NOT_FOUND", False]
    silent = "window.fetch = () => Promise.reject(new TypeError('cut')); "
    silent += "return m.overview().catch((e) => [e.status, e.isUnknown])"
    assert run(modules, "api.js", silent) == [0, True]
