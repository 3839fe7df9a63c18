"""A browser and a cluster, for all tests of the console."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.console.browser import Browser, Page
from tests.e2e.cluster import Cluster, running_cluster

# Long timeouts, so that no busy machine changes the leader while a test looks at it; a test that wants another one
# does not wait for them to pass many times.
CONFIG = """
raft:
  election_timeout_ms: 1500
  heartbeat_timeout_ms: 100
limits:
  leader_wait_ms: 300
console:
  writes: true
"""


@pytest.fixture(scope="package")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium; skips where there is none."""
    started = Browser(tmp_path_factory.mktemp("chromium"))
    try:
        yield started
    finally:
        started.close()


@pytest.fixture(scope="package")
def cluster(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes whose consoles may write; each test leaves them running and with a leader."""
    with running_cluster(tmp_path_factory.mktemp("console"), extra=CONFIG) as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page."""
    opened = browser.open()
    yield opened
    opened.close()
