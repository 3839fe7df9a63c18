"""How long the console takes until something is seen, and how many bytes that is: `python -m tests.console.paint [N]`.

A node of its own, over loopback, and a fresh browser context for each of N looks, so that nothing is cached.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from fastkv.chaos.ports import free_ports
from fastkv.server.http.console import FILES
from tests.console.browser import Browser
from tests.e2e.cluster import Node, eventually

PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
RECEIVED = (
    "[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]"
    ".filter(e => e.name.includes('/console')).reduce((sum, e) => sum + e.transferSize, 0)"
)


def look(browser: Browser, node: Node) -> tuple[float, int]:
    """Milliseconds until the first paint, and the bytes of the page's files, heads included."""
    page = browser.open()
    page.go(f"http://127.0.0.1:{node.http_port}/console")
    page.until_text("#live", "Live")
    paint = eventually(lambda: page.js(PAINT), within_s=60, what="a paint")
    received = page.js(RECEIVED)
    page.close()
    return paint, received


def main(looks: int) -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        http_port, raft_port = free_ports(2)
        node = Node("node-1", None, http_port, raft_port, directory)
        node.start()
        try:
            eventually(lambda: node.status().get("is_leader"), within_s=60, what="the node to lead")
            browser = Browser(directory)
            try:
                look(browser, node)         # the browser's own start is not the page's
                paints, received = zip(*(look(browser, node) for _ in range(looks)), strict=True)
            finally:
                browser.close()
        finally:
            node.kill()
    listed = ", ".join(f"{paint:.0f}" for paint in sorted(paints))
    print(f"first paint: median {statistics.median(paints):.0f} ms of {listed}")
    print(f"files: {len(FILES)}, {sum(len(file.content) for file in FILES.values())} bytes; received: {received[0]}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
