"""The key browser: finding, reading and, where the node lets it, writing; whatever the keys are called."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from urllib.parse import quote

import pytest

import fastkv
from fastkv.chaos.ports import free_ports
from tests.console.browser import Browser, Page
from tests.console.test_page import console_of
from tests.e2e.cluster import Cluster, Node, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

WITHIN_S = 60.0


@pytest.fixture(scope="module")
def node(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One node as it is without a configuration: its console is read-only."""
    http_port, raft_port = free_ports(2)
    started = Node("node-1", None, http_port, raft_port, tmp_path_factory.mktemp("read-only"))
    started.start()
    try:
        eventually(lambda: started.status().get("is_leader"), within_s=WITHIN_S, what="the node to lead")
        yield started
    finally:
        started.kill()


def path_of(key: bytes) -> str:
    return f"/kv/{quote(key, safe='')}"


def store(node: Node, key: bytes, value: bytes) -> int:
    status, answer = node.request("PUT", path_of(key), value)
    assert status in (200, 201), answer
    revision: int = answer["revision"]
    return revision


def store_many(node: Node, prefix: str, count: int) -> None:
    """Keys that end with 000, 001, …, and say their number as their value."""

    async def run() -> None:
        async with fastkv.AsyncClient(node.endpoint) as kv:
            await asyncio.gather(*(kv.put(f"{prefix}{number:03}", f"value {number}") for number in range(count)))

    asyncio.run(run())


def stored(node: Node, key: bytes) -> bytes | None:
    status, answer = node.request("GET", path_of(key), headers={"Accept": "application/octet-stream"})
    return answer if status == 200 else None


def opened(page: Page, node: Node) -> None:
    """Open a node's console, and wait until it works."""
    page.go(console_of(node))
    page.until_text("#live", "Live")


def listed(page: Page, prefix: str, note: str) -> None:
    """Wait until the keys with the prefix are listed, and only these."""
    page.until(
        f"document.querySelector('#listing-note').innerText.startsWith({json.dumps(note)}) && "
        "[...document.querySelectorAll('#list .key')].every(e => e.textContent.startsWith("
        f"{json.dumps(prefix)}))"
    )


def search(page: Page, prefix: str, note: str) -> None:
    page.fill("#prefix", prefix)
    page.press("Enter")
    listed(page, prefix, note)


def choose(page: Page, shown: str) -> None:
    """Click the key that is shown as this."""
    page.until(f"[...document.querySelectorAll('#list .key')].some(e => e.textContent === {shown!r})")
    number = page.js(f"[...document.querySelectorAll('#list .key')].findIndex(e => e.textContent === {shown!r}) + 1")
    page.click(f"#list li:nth-child({number}) button")
    page.until(f"document.querySelector('#value h3')?.textContent === {shown!r}")


# -- read-only ---------------------------------------------------------------------------------------------------------


def test_by_itself_it_only_reads(node: Node, page: Page) -> None:
    store(node, b"only/read", b"a value")
    opened(page, node)
    search(page, "only/", "1 key")
    choose(page, "only/read")
    page.until_text("#value", "a value")
    page.until_text("#keys-mode", "read-only")
    assert page.on("#new-key", "e.hidden")
    assert {"Edit", "Delete", "New key"}.isdisjoint(page.texts("button"))


def test_searching_and_walking(node: Node, page: Page) -> None:
    store_many(node, "walk/", 250)
    store(node, b"wall", b"w")
    opened(page, node)
    page.press("/")
    assert page.focus == "prefix"
    page.type("walk/")
    listed(page, "walk/", "The first 100 keys")
    page.press("ArrowDown")
    page.until_text("#value", "value 0")
    page.press("ArrowDown")
    page.press("ArrowDown")
    page.until_text("#value", "value 2")
    assert page.on("#list [aria-current]", "e.innerText").startswith("walk/002")
    page.press("ArrowUp")
    page.until_text("#value", "value 1")
    page.click("#more")
    page.until_text("#listing-note", "The first 200 keys")
    page.click("#more")
    page.until_text("#listing-note", "250 keys")
    assert page.texts("#list .key") == [f"walk/{number:03}" for number in range(250)]
    page.fill("#prefix", "walk/24")
    listed(page, "walk/24", "10 keys")
    search(page, "nothing", "No key")
    # What is shown follows the store: the value, a key that comes, and one that goes.
    search(page, "walk/24", "10 keys")
    choose(page, "walk/241")
    page.until_text("#value", "value 241")
    with fastkv.connect(node.endpoint) as kv:
        kv.put("walk/241", "changed")
        kv.put("walk/24a", "new")
        kv.delete("walk/240")
    page.until_text("#value", "changed")
    page.until_text("#list", "walk/24a")
    assert "walk/240" not in page.text("#list")


def test_listing_by_itself_keeps_no_snapshots_open(node: Node, page: Page) -> None:
    """It lists anew whenever something changes: were each a cursor that is left, others' cursors would make room."""
    store_many(node, "open/", 1100)     # more than one page has room for, so that there is always a next one
    with fastkv.connect(node.endpoint) as kv:
        opened(page, node)
        search(page, "open/", "The first 100 keys")

        def held() -> int:
            (line,) = [
                line for line in node.request("GET", "/metrics")[1].decode().splitlines()
                if line.startswith("fastkv_snapshot_open ")
            ]  # fmt: skip
            return int(float(line.split()[1]))

        before = held()
        for number in range(3):
            kv.put("open/050", f"again {number}")
            revision = kv.get("open/050").revision
            page.until(f"[...document.querySelectorAll('#list small')].some(e => e.innerText === 'r{revision}')")
        assert held() <= before


MARKUP = b"<img src=x onerror=alert(document.domain)>"
ODD_KEYS = {
    b"odd/a b:c%41?d=e#f&g+h": "odd/a b:c%41?d=e#f&g+h",
    b"odd/../..": "odd/../..",
    b"odd//x/": "odd//x/",
    b"odd/" + MARKUP: "odd/" + MARKUP.decode(),
    "odd/grüße 世界 🙂".encode(): "odd/grüße 世界 🙂",
    b"odd/back\\slash": r"odd/back\\slash",
    b"odd/\xff\x00\xc3\xa4\xc3": r"odd/\xff\x00ä\xc3",
    "odd/\u202eturned\n".encode(): r"odd/\xe2\x80\xaeturned\n",
}


def test_whatever_a_key_is_called_it_is_shown_as_text_and_found(node: Node, page: Page) -> None:
    for number, key in enumerate(ODD_KEYS):
        store(node, key, b"value %d <b>bold</b>" % number)
    opened(page, node)
    search(page, "odd/", f"{len(ODD_KEYS)} keys")
    assert set(page.texts("#list .key")) == set(ODD_KEYS.values())
    for number, shown in enumerate(ODD_KEYS.values()):
        choose(page, shown)
        page.until_text("#value pre", f"value {number} <b>bold</b>")
    search(page, r"odd/\xff\x00", "1 key")
    search(page, r"odd/back\\", "1 key")
    assert page.js("document.querySelectorAll('#keys img, #keys b').length") == 0
    assert page.events("Page.javascriptDialogOpening") == []


def test_what_a_browser_cannot_ask_for_is_said(node: Node, page: Page) -> None:
    with fastkv.connect(node.endpoint) as kv:
        kv.put("..", "parent")
    opened(page, node)
    search(page, "..", "1 key")
    choose(page, "..")
    page.until_text("#value", "A browser cannot ask for the key ..")


def test_values_that_are_no_text(node: Node, page: Page) -> None:
    store(node, b"binary", bytes(range(250, 256)) + b"A<i>")
    store(node, b"empty", b"x")
    with fastkv.connect(node.endpoint) as kv:
        kv.put("empty", b"")
    store(node, b"large", "ä".encode() * 50_000)
    opened(page, node)
    search(page, "binary", "1 key")
    choose(page, "binary")
    page.until_text("#value", "binary")
    page.until_text("#value pre", "000000  fa fb fc fd fe ff 41 3c 69 3e")
    assert "······A<i>" in page.text("#value pre")
    page.click("#value [data-role=Base64]")
    page.until_text("#value pre", "+vv8/f7/QTxpPg==")
    search(page, "empty", "1 key")
    choose(page, "empty")
    page.until_text("#value", "The value is empty.")
    search(page, "large", "1 key")
    choose(page, "large")
    page.click("#value [data-role=Text]")
    page.until_text("#value", "The first 64.0 KiB of it.")
    assert page.text("#value pre") == "ä" * 32_768


# -- writing -----------------------------------------------------------------------------------------------------------


def edit(page: Page, text: str) -> None:
    page.click("#value [data-role=edit]")
    page.until("document.activeElement.id === 'edited'")
    page.fill("#edited", text)


def test_editing_creating_and_deleting(cluster: Cluster, page: Page) -> None:
    node = cluster.followers()[0]
    store(node, b"edit/one", b"first")
    opened(page, node)
    search(page, "edit/", "1 key")
    choose(page, "edit/one")
    page.until_text("#value pre", "first")
    edit(page, 'second\n"line" <b>')
    page.click("#value button[type=submit]")
    page.until_text("#value pre", "second")
    assert stored(node, b"edit/one") == b'second\n"line" <b>'
    # A new key, with a name that is no text.
    page.click("#new-key")
    page.fill("#new-name", r"edit/\xfftwo")
    page.fill("#edited", "made here")
    page.click("#value button[type=submit]")
    page.until_text("#value pre", "made here")
    page.until_text("#list", r"edit/\xfftwo")
    assert stored(node, b"edit/\xfftwo") == b"made here"
    # Deleted once it was confirmed, and not before.
    page.click("#value [data-role=delete]")
    page.until("document.querySelector('#confirm').open")
    assert page.text("#confirm-text") == r"Delete edit/\xfftwo?"
    page.press("Escape")
    page.until("!document.querySelector('#confirm').open")
    assert stored(node, b"edit/\xfftwo") == b"made here"
    page.click("#value [data-role=delete]")
    page.click("#confirm-yes")
    page.until_text("#value", "Deleted.")
    assert stored(node, b"edit/\xfftwo") is None
    page.until_text("#listing-note", "1 key")


def test_nothing_is_overwritten_that_was_not_shown(cluster: Cluster, page: Page) -> None:
    node = cluster.leader()
    store(node, b"race/edited", b"mine")
    store(node, b"race/deleted", b"mine")
    opened(page, node)
    search(page, "race/", "2 keys")
    choose(page, "race/edited")
    page.until_text("#value pre", "mine")
    edit(page, "mine, later")
    revision = store(node, b"race/edited", b"theirs")
    page.until_text("#value [data-role=note]", "Somebody else has changed it")
    page.click("#value button[type=submit]")
    page.until_text("#value [data-role=note]", f"Nothing was changed: the key is at revision {revision} by now.")
    assert page.on("#edited", "e.value") == "mine, later", "what was typed is not lost"
    assert stored(node, b"race/edited") == b"theirs"
    page.press("Escape")
    page.until_text("#value pre", "theirs")
    # The same for a key that is to be deleted, and for a new one.
    choose(page, "race/deleted")
    page.until_text("#value pre", "mine")
    page.click("#value [data-role=delete]")
    page.until("document.querySelector('#confirm').open")
    store(node, b"race/deleted", b"theirs")
    page.click("#confirm-yes")
    page.until_text("#value [data-role=note]", "Nothing was changed")
    assert stored(node, b"race/deleted") == b"theirs"
    page.click("#new-key")
    page.fill("#new-name", "race/edited")
    page.fill("#edited", "new?")
    page.click("#value button[type=submit]")
    page.until_text("#value [data-role=note]", "Nothing was changed: the key is at revision")
    assert stored(node, b"race/edited") == b"theirs"


def test_bytes_that_a_text_field_would_change_are_edited_as_base64(cluster: Cluster, page: Page) -> None:
    node = cluster.leader()
    store(node, b"bytes/crlf", b"a\r\nb")
    opened(page, node)
    search(page, "bytes/crlf", "1 key")
    choose(page, "bytes/crlf")
    page.until_text("#value pre", "a")
    page.click("#value [data-role=edit]")
    page.until("document.querySelector('#edited')")
    assert page.on("#edited", "e.value") == "YQ0KYg=="
    page.fill("#edited", "no base64!")
    page.click("#value button[type=submit]")
    page.until_text("#value [data-role=note]", "That is not base64.")
    page.fill("#edited", "AP8=")
    page.click("#value button[type=submit]")
    page.until_text("#value pre", "00 ff")
    assert stored(node, b"bytes/crlf") == b"\x00\xff"


def test_a_write_whose_answer_is_lost_is_sent_again_and_done_once(cluster: Cluster, page: Page) -> None:
    node = cluster.leader()
    store(node, b"lost/answer", b"before")
    opened(page, node)
    search(page, "lost/", "1 key")
    choose(page, "lost/answer")
    page.until_text("#value pre", "before")
    page.js(
        "(ask => { window.fetch = async (url, options) => { const answer = await ask(url, options); "
        "if (options?.method === 'PUT') { window.fetch = ask; throw new TypeError('cut') } return answer } })"
        "(window.fetch.bind(window))"
    )
    edit(page, "after")
    page.click("#value button[type=submit]")
    page.until_text("#value [data-role=note]", "It may or may not have been done")
    done = node.request("GET", "/kv/lost%2Fanswer")[1]
    assert (done["value"], done["version"]) == ("after", 2)
    page.click("#value button[type=submit]")
    page.until_text("#value pre", "after")
    assert node.request("GET", "/kv/lost%2Fanswer")[1] == done, "the second try is the first one's answer"
