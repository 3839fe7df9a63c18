"""The page as a whole: what it shows of a cluster, to everybody and by itself, and what it says when things fail."""

from __future__ import annotations

import re
from typing import Any

import pytest

import fastkv
from tests.console.browser import Page
from tests.e2e.cluster import Cluster, Node, paused

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def console_of(node: Node) -> str:
    return f"http://127.0.0.1:{node.http_port}/console"


def look(page: Page, node: Node) -> None:
    """Open a node's console, and wait until it shows its cluster."""
    page.go(console_of(node))
    page.until("document.querySelectorAll('#members tr').length === 3")
    page.until_text("#live", "Live")


def members(page: Page) -> dict[str, list[str]]:
    """The members' table: role, term, lag, round trip, applied, reads and writes a second, by id."""
    rows: list[list[str]] = page.js(
        "[...document.querySelectorAll('#members tr')].map(row => [row.querySelector('.id').innerText, "
        "...[...row.querySelectorAll('td')].map(cell => cell.innerText)])"
    )
    return {row[0]: row[1:] for row in rows}


# -- what it shows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("through", ["leader", "follower"])
def test_the_members_are_those_of_the_cluster(cluster: Cluster, page: Page, through: str) -> None:
    leader = cluster.leader()
    node = leader if through == "leader" else cluster.followers()[0]
    look(page, node)
    # A round trip is measured once a second, and told twice a second.
    page.until("[...document.querySelectorAll('#members [data-label=\"Round trip\"]')].every(e => e.innerText !== '–')")
    page.until("[...document.querySelectorAll('#members [data-label=Lag]')].every(e => e.innerText === '0')")
    term = leader.status()["nodes"][leader.node_id]["term"]
    for node_id, (role, shown_term, _, round_trip, applied, _, _) in members(page).items():
        leads = node_id == leader.node_id
        assert role.endswith("Leader" if leads else "Follower")
        assert shown_term == str(term)
        assert round_trip == "leads" if leads else re.fullmatch(r"[\d.]+ m?s", round_trip)
        assert int(applied.replace(",", "")) > 0
    assert page.on("#members .here:not([hidden])", "e.parentElement.innerText").startswith(node.node_id)
    assert page.text("#tiles > div:first-child dd") == leader.node_id


def test_it_asks_nobody_but_the_node_and_complains_of_nothing(cluster: Cluster, page: Page) -> None:
    node = cluster.followers()[0]
    look(page, node)
    asked = [event["request"]["url"] for event in page.events("Network.requestWillBeSent")]
    assert {url for url in asked if not url.startswith(f"http://127.0.0.1:{node.http_port}/")} <= {"about:blank"}
    assert any("/cluster/overview" in url for url in asked)
    assert page.events("Runtime.exceptionThrown") == []
    assert [event["entry"]["text"] for event in page.events("Log.entryAdded")] == []


def test_the_browser_is_told_to_make_no_markup_and_to_run_nothing_else(cluster: Cluster, page: Page) -> None:
    look(page, cluster.leader())
    for attempt in (
        "document.body.innerHTML = '<i>x</i>'",
        "document.createElement('img').setAttribute('onerror', 'x()')",
        "document.createElement('script').textContent = 'x()'",
    ):
        name = page.js(f"(() => {{ try {{ {attempt}; return '' }} catch (error) {{ return error.name }} }})()")
        assert name == "TypeError", attempt
    assert page.js("fetch('http://127.0.0.1:1/').catch(e => e.name)") == "TypeError"


def test_it_refreshes_by_itself(cluster: Cluster, page: Page) -> None:
    look(page, cluster.followers()[0])
    with fastkv.connect(cluster.endpoints) as kv:

        def working() -> bool:
            for number in range(20):
                kv.put(f"refresh/{number}", "v")
                kv.get(f"refresh/{number}")
            shown = page.js(
                "[...document.querySelectorAll('#throughput .legend b, #latency .legend b')].map(e => parseFloat("
                "e.innerText))"
            )
            reads, writes, failed, *latencies = shown
            return bool(reads and writes and failed == 0 and all(latencies))

        page.until("document.querySelectorAll('#throughput path.line').length > 0")
        for _ in range(1000):
            if working():
                break
        else:
            pytest.fail("the charts do not show the load")
    assert page.on("#throughput .plot", "e.getAttribute('aria-label')").startswith("Throughput, the last five minutes")
    page.until_text("#list", "refresh/7")
    keys = cluster.leader().request("GET", "/health")[1]["keys"]
    page.until_text("#tiles > div:nth-child(5) dd", f"{keys:,}")
    # Paused, it asks no more; resumed, it goes on.
    page.click("#pause")
    page.until_text("#live", "Paused")
    before = page.js("performance.getEntriesByType('resource').filter(e => e.name.includes('overview')).length")
    assert page.text("#pause") == "Resume"
    page.click("#pause")
    page.until_text("#live", "Live")
    page.until(f"performance.getEntriesByType('resource').filter(e => e.name.includes('overview')).length > {before}")


def test_a_chart_is_read_by_keyboard(cluster: Cluster, page: Page) -> None:
    look(page, cluster.leader())
    page.until("document.querySelectorAll('#throughput path.line').length > 0")
    page.js("document.querySelector('#throughput .plot').focus()")
    page.press("ArrowLeft")
    said = page.on("#throughput .unseen", "e.textContent")
    assert re.match(r"\d\d:\d\d:\d\d: Reads .+, Writes .+, Failed ", said), said
    assert page.on("#throughput svg .marker", "true")
    page.press("Escape")
    assert not page.on("#throughput svg .marker", "true")


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_new_leader_and_a_member_that_is_gone(cluster: Cluster, page: Page) -> None:
    old, node = cluster.leader(), cluster.followers()[0]
    look(page, node)
    term = int(members(page)[old.node_id][1])
    old.kill()
    try:
        page.until_text("#banners", f"Not heard from: {old.node_id}")
        new = cluster.leader(among=[other for other in cluster if other is not old])
        page.until_text("#tiles > div:first-child dd", new.node_id)
        page.until_text("#changes li:first-child", f"{new.node_id} leads in term ")
        told = page.text("#changes li:first-child")
        assert int(re.search(r"in term (\d+)", told)[1]) > term     # type: ignore[index]
        assert "without a known leader" in told
        page.until(
            "[...document.querySelectorAll('#timeline .led title')].some(e => e.textContent.startsWith("
            f"'{new.node_id} led in term'))"
        )
        assert page.on("#timeline .nobody title", "e.textContent").startswith("no known leader for ")
        assert members(page)[old.node_id][0] == "Not heard from"
    finally:
        old.start()
    page.until("document.querySelector('#banners').childElementCount === 0")
    page.until("[...document.querySelectorAll('#members .chip')].every(e => e.innerText !== 'Not heard from')")
    cluster.leader()


def test_without_a_leader_it_says_so_and_shows_what_the_node_has(cluster: Cluster, page: Page) -> None:
    node = cluster.leader()
    node.put("before", "kept")
    look(page, node)
    with paused(*cluster.followers()):
        page.until_text("#banners", "There is no leader")
        assert page.js("document.title").startswith("(no leader)")
        page.fill("#prefix", "before")
        page.press("Enter")
        page.until_text("#listing-note", "1 key, as this node has them: no leader")
        page.press("ArrowDown")
        page.until_text("#value", "kept")
        assert "this node’s own copy" in page.text("#value")
    page.until("document.querySelector('#banners').childElementCount === 0")
    cluster.leader()


def test_a_node_that_is_lost_is_found_again(cluster: Cluster, page: Page) -> None:
    node = cluster.followers()[0]
    look(page, node)
    node.kill()
    try:
        page.until_text("#banners", f"{node.node_id} does not answer")
        page.until_text("#live", "Lost for")
        assert page.on("#banners", "e.getAttribute('aria-live')") == "assertive"
        assert len(members(page)) == 3, "what was known stays"
    finally:
        node.start()
    page.until_text("#live", "Live")
    page.until("document.querySelector('#banners').childElementCount === 0")
    cluster.leader()


# -- for everybody -----------------------------------------------------------------------------------------------------

CONTRASTS = """
(() => {
  const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
  };
  const hasText = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  const seen = [...document.querySelectorAll('body *')].filter(
    (e) => e.checkVisibility() && !e.closest('svg, .unseen, .skip') && hasText(e));
  return seen.map((e) => {
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), `${e.tagName}.${e.className}: ${e.textContent.slice(0, 20)}`];
  }).filter(([ratio]) => ratio < 4.5);
})()
"""


def test_texts_can_be_read_in_either_theme_and_nothing_moves_where_the_user_wants_it_still(
    cluster: Cluster, page: Page
) -> None:
    cluster.leader().put("contrast", "v")
    look(page, cluster.leader())
    page.click("#list button")
    page.until_text("#value", "revision")
    for theme in ("light", "dark"):
        page.prefer(prefers_color_scheme=theme, prefers_reduced_motion="reduce")
        red, green, blue = map(int, re.findall(r"\d+", page.on("body", "getComputedStyle(e).backgroundColor")))
        assert (red + green + blue > 600) is (theme == "light")
        assert page.js(CONTRASTS) == []
        assert page.on("#live .dot", "getComputedStyle(e).animationName") == "none"


def test_it_fits_a_narrow_screen(cluster: Cluster, page: Page) -> None:
    cluster.leader().put("a/rather/long/key/" + "x" * 200, "y" * 400)
    page.resize(320, 700, phone=True)
    look(page, cluster.leader())
    page.click("#list button")
    page.until_text("#value", "yyyy")
    page.until("document.querySelectorAll('#throughput svg line').length > 0")
    for width in (320, 390, 768):
        page.resize(width, 700, phone=True)
        page.until(f"innerWidth === {width}")
        assert page.js("document.documentElement.scrollWidth") == width
        small = page.js(
            "[...document.querySelectorAll('button')].filter(e => e.checkVisibility())"
            ".map(e => e.getBoundingClientRect()).filter(b => b.height < 24 || b.width < 24).length"
        )
        assert small == 0, "buttons that are too small for a finger"


def test_everything_can_be_reached_by_keyboard_and_is_seen_to_be(cluster: Cluster, page: Page) -> None:
    cluster.leader().put("keyboard", "v")
    look(page, cluster.leader())
    page.until("document.querySelector('#list button')")
    page.js("document.body.focus()")
    reached: list[Any] = []
    for _ in range(14):
        page.press("Tab")
        reached.append(page.js(
            "(e => [e.id || e.className || e.innerText, getComputedStyle(e).outlineStyle !== 'none' && "
            "e.matches(':focus-visible')])(document.activeElement)"
        ))
    order = [name for name, _ in reached]
    assert order[:2] == ["skip", "pause"]
    assert order[2:4] == ["plot", "plot"]
    assert order[4:7] == ["5 min", "1 h", "24 h"]
    assert order[7:9] == ["prefix", "new-key"]
    assert all(seen for _, seen in reached), reached
    page.js("document.activeElement.blur()")
    page.press("/")
    assert page.focus == "prefix"


def test_landmarks_and_names(cluster: Cluster, page: Page) -> None:
    """What a screen reader walks by, as the browser's own accessibility tree has it."""
    look(page, cluster.leader())
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    named = {
        (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")
    }
    roles = {role for role, _ in named}
    assert {"banner", "main", "contentinfo", "search", "table", "status"} <= roles
    for title in ("Members", "Throughput", "Latency", "Leaders", "Keys"):
        assert ("heading", title) in named
        assert ("region", title) in named
    unnamed = [role for role, name in named if role in {"button", "link", "searchbox", "textbox"} and not name]
    assert unnamed == []
