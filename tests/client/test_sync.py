"""The synchronous client: the same answers, from any thread, and a thread that always ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import fastkv
from fastkv._core.codes import Opcode
from tests.client.fake_node import FakeNode, threaded


@pytest.fixture
def node() -> Iterator[FakeNode]:
    """A fake node on a thread of its own."""
    with threaded(FakeNode()) as node:
        yield node


def client_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fastkv-client"]


def test_the_example_of_the_documentation(node: FakeNode) -> None:
    with fastkv.connect(node.address) as kv:
        assert kv.put("user:john", "John Doe") == 1
        assert kv.get("user:john").value == b"John Doe"
        assert kv.put("a", b"1", if_revision=0) == 2
        with pytest.raises(fastkv.PreconditionFailed):
            kv.put("a", b"1", if_revision=0)
        assert [item.key for item in kv.scan(prefix="user:")] == [b"user:john"]
        assert kv.delete("a") is True
        assert kv.get("a").value is None
        assert kv.status()["leader"] is None
    assert not client_threads()


def test_a_scan_fetches_pages_as_they_are_needed(node: FakeNode) -> None:
    with fastkv.connect(node.address) as kv:
        for i in range(1500):
            kv.put(f"k{i:04}", b"v")
        items = kv.scan(prefix="k")
        assert next(items).key == b"k0000"
        assert len(node.asked(Opcode.SCAN)) == 1
        assert sum(1 for _ in items) == 1499
        assert len(node.asked(Opcode.SCAN)) == 2


def test_many_threads_share_one_client(node: FakeNode) -> None:
    with fastkv.connect(node.address) as kv, ThreadPoolExecutor(8) as pool:
        revisions = list(pool.map(lambda i: kv.put(f"k{i}", b"v"), range(400)))
        assert sorted(revisions) == list(range(1, 401))
        assert len(node.links) == 1


def test_nobody_to_connect_to_is_told_and_leaves_no_thread(node: FakeNode) -> None:
    node.on[Opcode.HELLO] = lambda request: request.link.cut()
    with pytest.raises(fastkv.Unavailable):
        fastkv.connect(node.address, timeout=0.1)
    assert not client_threads()


def test_after_close_calls_and_a_second_close_are_safe(node: FakeNode) -> None:
    kv = fastkv.connect(node.address)
    items = kv.scan()
    kv.close()
    kv.close()
    with pytest.raises(fastkv.ClientClosed):
        kv.put("k", "v")
    with pytest.raises(fastkv.ClientClosed):
        next(items)


def test_close_ends_a_call_of_another_thread(node: FakeNode) -> None:
    kv = fastkv.connect(node.address)
    asked = threading.Event()
    node.on[Opcode.GET] = lambda request: asked.set()
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(kv.get, "k")
        assert asked.wait(5)
        kv.close()
        with pytest.raises(fastkv.ClientClosed):
            read.result()


def test_a_client_that_nobody_closed_warns_and_ends(node: FakeNode) -> None:
    clients = [fastkv.connect(node.address)]
    with pytest.warns(ResourceWarning, match="not closed"):
        clients.clear()
    assert not client_threads()


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """A process that a shell has started in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_ends_the_waiting_and_leaves_the_client_usable(node: FakeNode) -> None:
    with fastkv.connect(node.address) as kv:
        main = threading.main_thread().ident
        assert main is not None
        node.on[Opcode.GET] = lambda request: signal.pthread_kill(main, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            kv.get("k")
        del node.on[Opcode.GET]
        assert kv.put("k", "v") == 1


def test_a_script_that_ends_without_close_ends(node: FakeNode) -> None:
    script = f"import fastkv; kv = fastkv.connect({node.address!r}); print(kv.put('k', 'v'))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "1\n"
    assert done.stderr == ""


def test_importing_the_package_does_not_load_the_client() -> None:
    script = "import sys, fastkv; print(fastkv.__version__, 'fastkv.client' in sys.modules, 'asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split()[1:] == ["False", "False"]


def test_every_public_name_is_there() -> None:
    for name in fastkv.__all__:
        assert getattr(fastkv, name) is not None
        assert name in dir(fastkv)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        fastkv.nothing_like_it  # noqa: B018
