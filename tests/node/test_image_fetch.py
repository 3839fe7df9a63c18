"""A snapshot on its way between nodes: in pieces, resumed, from somebody else, and never one that was altered."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

import pytest

from fastkv._core.codes import Opcode, Status
from fastkv._core.frames import FrameReader
from fastkv.kv.store import Changes, ImageInfo, StoreMeta
from fastkv.node.ports import NodeSettings
from fastkv.node.snapshots import MAKING_TIMEOUTS, ImageFetch, ImageServer
from fastkv.storage.memory_store import MemoryIncoming, MemoryStore, StoredState
from fastkv.wire.peer import decode_snapshot_ask, decode_snapshot_chunk
from tests.node.conftest import Bench

CHUNK_BYTES = 100
TIMEOUT_TICKS = 10


def settings() -> NodeSettings:
    return replace(
        Bench(("node-1",)).node.settings,
        snapshot_chunk_bytes=CHUNK_BYTES, snapshot_window_bytes=3 * CHUNK_BYTES, snapshot_timeout_ticks=TIMEOUT_TICKS,
    )  # fmt: skip


def store_at(index: int, *, keys: int = 100) -> MemoryStore:
    """A store with a checkpoint at that entry."""
    store = MemoryStore(StoredState())
    if index:
        records: list[tuple[bytes, bytes | None]] = [(b"key-%d" % n, b"%d at %d" % (n, index)) for n in range(keys)]
        store.checkpoint(Changes(lambda: records), StoreMeta(index, 1), lambda error: None)
        store.complete()
    return store


class Ways:
    """One node that fetches, `a`, and others that serve; frames wait in `frames` until the test lets them arrive."""

    def __init__(self, **indexes: int) -> None:
        self.frames: deque[tuple[str, str, bytes]] = deque()
        self.down: set[str] = set()
        self.stores = {name: store_at(index) for name, index in indexes.items()}
        self.servers = {
            name: ImageServer(store, self._sender(name), settings()) for name, store in self.stores.items()
        }
        self.disk = StoredState()
        self.ready: list[ImageInfo] = []
        self.restart()

    def restart(self) -> None:
        """The fetching node begins anew, on what its disk has."""
        self.store = MemoryStore(self.disk)
        self.fetch = ImageFetch(self.store, self._sender("a"), settings(), self.ready.append)

    def _sender(self, frm: str) -> Callable[[str, bytes], bool]:
        def send(to: str, frame: bytes) -> bool:
            if self.down & {frm, to}:
                return False
            self.frames.append((frm, to, frame))
            return True

        return send

    def arrive(self, count: int = 1) -> None:
        """The next frames arrive; images are made and verified at once."""
        for _ in range(count):
            frm, to, frame = self.frames.popleft()
            if not self.down & {frm, to}:
                for opcode, _, code, _, body in FrameReader(1 << 20).feed(frame):
                    if opcode == Opcode.SNAPSHOT_ASK:
                        self.servers[to].asked(frm, body)
                    else:
                        self.fetch.heard_chunk(frm, code, body)
            for store in (*self.stores.values(), self.store):
                while store.jobs:
                    store.step()

    def run(self) -> None:
        """Let everything arrive, and time pass, until the snapshot is here."""
        for _ in range(100 * TIMEOUT_TICKS):
            while self.frames:
                self.arrive()
            if not self.fetch.active:
                return
            self.fetch.tick()
        raise AssertionError(f"it never came: {self.fetch.problem}")

    def asked(self) -> list[tuple[str, int]]:
        """Who is asked for which offset, in the frames under way."""
        found = []
        for _, to, frame in self.frames:
            for opcode, _, _, _, body in FrameReader(1 << 20).feed(frame):
                if opcode == Opcode.SNAPSHOT_ASK:
                    found.append((to, decode_snapshot_ask(body).offset))
        return found

    def installed(self) -> int:
        """The entry at which the store is once what came is installed."""
        self.disk.exchange()
        return self.disk.meta.applied_index


def test_it_comes_in_pieces_and_whole() -> None:
    ways = Ways(b=7, c=7)
    ways.fetch.want(5, "c", ["b"])
    ways.run()
    (info,) = ways.ready
    assert (info.applied_index, ways.installed()) == (7, 7)
    assert ways.disk.records == dict(ways.stores["b"].view().range(b"", b"", False))
    assert ways.servers["b"].sent_bytes == info.nbytes == ways.fetch.received_bytes
    assert ways.servers["c"].sent_bytes == 0, "the leader comes last"


def test_no_more_is_asked_for_than_the_window_allows() -> None:
    ways = Ways(b=7)
    ways.fetch.want(5, "b", [])
    ways.arrive(2)                      # the question, and the first chunk
    assert ways.asked() == [("b", CHUNK_BYTES * n) for n in (1, 2, 3)]
    ways.arrive(4)                      # the three questions, and one answer
    assert ways.asked() == [("b", CHUNK_BYTES * 4)]


def test_pieces_may_come_twice_and_in_any_order() -> None:
    ways = Ways(b=7)
    ways.fetch.want(5, "b", [])
    ways.arrive(2)
    while ways.fetch.active:
        ways.arrive(len(ways.asked()))
        ways.frames = deque([frame for frame in reversed(ways.frames) for _ in range(2)])
        ways.arrive(len(ways.frames) - len(ways.asked()))
    assert ways.installed() == 7
    assert ways.ready[0].nbytes == ways.fetch.received_bytes


def test_after_a_break_it_goes_on_where_it_was_also_in_another_life() -> None:
    ways = Ways(b=7)
    ways.fetch.want(5, "b", [])
    ways.arrive(5)
    here, total = ways.fetch.progress
    assert 0 < here < total
    ways.frames.clear()
    ways.fetch.lost("b")                # the link broke, and comes up again
    assert ways.asked() == [("b", here + CHUNK_BYTES * n) for n in range(3)]
    ways.frames.clear()
    ways.restart()                      # a stop, with what was written on the disk
    ways.fetch.want(5, "b", [])
    ways.run()
    assert ways.installed() == 7
    assert ways.fetch.received_bytes == total - here


def test_a_frame_that_was_lost_is_asked_for_again_of_the_same_node() -> None:
    ways = Ways(b=7, c=7)
    ways.fetch.want(5, "c", ["b"])
    ways.arrive(2)
    ways.frames.clear()
    for _ in range(TIMEOUT_TICKS):
        ways.fetch.tick()
    assert [to for to, _ in ways.asked()] == ["b"] * 3, "another's would be another copy"
    ways.frames.clear()
    for _ in range(TIMEOUT_TICKS):
        ways.fetch.tick()
    assert {to for to, _ in ways.asked()} == {"c"}
    ways.run()
    assert ways.installed() == 7


def test_a_first_question_that_was_lost_is_asked_again_of_the_same_node_and_does_no_harm_twice() -> None:
    ways = Ways(b=7, c=7)
    ways.fetch.want(5, "c", ["b"])
    (first,) = ways.frames
    ways.frames.clear()
    for _ in range(TIMEOUT_TICKS):
        ways.fetch.tick()
    assert ways.asked() == [("b", 0)]
    ways.frames.appendleft(first)       # it was only late: both are answered
    ways.run()
    (info,) = ways.ready
    assert ways.installed() == 7
    assert ways.fetch.received_bytes == info.nbytes
    assert ways.servers["c"].sent_bytes == 0


def test_whoever_does_not_answer_at_all_is_passed_over() -> None:
    ways = Ways(b=7, c=7)
    ways.fetch.want(5, "c", ["b"])
    ways.frames.clear()
    for _ in range(MAKING_TIMEOUTS * TIMEOUT_TICKS):
        assert ways.asked() in ([], [("b", 0)]), "it may have to make an image first, and the question may be lost"
        ways.frames.clear()
        ways.fetch.tick()
    assert ways.asked() == [("c", 0)]
    ways.down.add("b")
    ways.run()
    assert ways.installed() == 7


def test_whoever_cannot_be_reached_is_passed_over_at_once() -> None:
    ways = Ways(b=7, c=7)
    ways.down.add("b")
    ways.fetch.want(5, "c", ["b"])
    ways.fetch.tick()
    assert ways.asked() == [("c", 0)]


def test_whoever_has_none_that_is_new_enough_is_passed_over() -> None:
    ways = Ways(b=4, c=7)
    ways.fetch.want(5, "c", ["b"])
    ways.arrive(2)
    assert "b has no snapshot of entry 5 or later" in ways.fetch.problem
    ways.run()
    assert ways.installed() == 7
    assert ways.fetch.problem == ""


def test_one_that_is_gone_at_its_source_is_begun_anew_with_the_next() -> None:
    ways = Ways(b=7)
    ways.fetch.want(5, "b", [])
    ways.arrive(4)
    ways.stores["b"] = store_at(9)      # it has made another, and let go of the first
    ways.servers["b"] = ImageServer(ways.stores["b"], ways._sender("b"), settings())
    ways.run()
    assert ways.installed() == 9


def test_a_newer_one_that_is_needed_takes_its_place() -> None:
    ways = Ways(b=7)
    ways.fetch.want(5, "b", [])
    ways.arrive(3)
    ways.stores["b"] = store_at(12)
    ways.servers["b"] = ImageServer(ways.stores["b"], ways._sender("b"), settings())
    ways.fetch.want(10, "b", [])
    ways.run()
    assert (ways.installed(), len(ways.ready)) == (12, 1)


def test_the_same_wish_again_changes_nothing_and_another_leader_only_who_is_asked() -> None:
    ways = Ways(b=7, c=7)
    ways.fetch.want(5, "b", ["c"])
    ways.arrive(2)
    before = ways.asked()
    ways.fetch.want(5, "b", ["c"])
    ways.fetch.want(5, "c", ["b"])
    assert ways.asked() == before
    ways.frames.clear()
    ways.fetch.want(6, "b", [])         # c is a member no more
    assert ways.asked()[0] == ("b", CHUNK_BYTES)


def test_bytes_that_were_altered_on_their_way_end_the_link() -> None:
    ways = Ways(b=7)
    ways.fetch.want(5, "b", [])
    ways.arrive()
    _, _, frame = ways.frames[0]
    ((_, _, code, _, body),) = FrameReader(1 << 20).feed(frame)
    data_bytes = len(decode_snapshot_chunk(body).data)
    # What names the snapshot is checked when all of it is here; the rest in every frame.
    for at in (*range(40, 56), *range(len(body) - data_bytes, len(body))):
        with pytest.raises(ValueError, match="SNAPSHOT_CHUNK"):
            ways.fetch.heard_chunk("b", code, body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :])
    with pytest.raises(ValueError, match="SNAPSHOT_CHUNK"):
        ways.fetch.heard_chunk("b", code, body[:-1])
    assert ways.fetch.progress == (0, 0)


class Altering(MemoryStore):
    """A store whose copies have another byte than they were announced with: a disk that lies."""

    def _make_image(self):  # type: ignore[no-untyped-def]
        image = super()._make_image()
        image._content = image._content[:-1] + bytes([image._content[-1] ^ 1])
        return image


def test_a_snapshot_that_is_not_what_was_announced_is_thrown_away_and_had_from_another() -> None:
    ways = Ways(b=7, c=7)
    ways.stores["b"].__class__ = Altering
    ways.fetch.want(5, "c", ["b"])
    ways.run()
    assert ways.installed() == 7
    assert ways.servers["b"].sent_bytes == ways.ready[0].nbytes, "all of it came, and was of no use"
    assert ways.servers["c"].sent_bytes == ways.ready[0].nbytes


def test_a_full_disk_is_said_and_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = Ways(b=7)
    ways.fetch.want(5, "b", [])
    ways.arrive(2)

    def refuse(incoming: MemoryIncoming, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(MemoryIncoming, "write", refuse)
        ways.arrive(6)
        assert "cannot be written" in ways.fetch.problem
    ways.run()
    assert ways.installed() == 7
    assert ways.fetch.problem == ""


@pytest.mark.parametrize("status", [Status.KEY_NOT_FOUND, Status.NO_SPACE])
def test_answers_of_others_and_late_ones_are_nobody_s(status: Status) -> None:
    ways = Ways(b=7, c=7)
    ways.fetch.heard_chunk("b", status, b"")
    ways.fetch.want(5, "c", ["b"])
    ways.fetch.heard_chunk("c", status, b"")
    assert ways.asked() == [("b", 0)]
    ways.run()
    ways.fetch.heard_chunk("b", status, b"")
    assert not ways.fetch.active


def test_what_is_given_up_stays_for_another_time() -> None:
    ways = Ways(b=7)
    ways.fetch.want(5, "b", [])
    ways.arrive(5)
    here, _ = ways.fetch.progress
    ways.fetch.cancel()
    ways.frames.clear()
    ways.fetch.want(6, "b", [])
    ways.arrive(2)
    assert ways.fetch.progress[0] == here


# -- the side that serves ----------------------------------------------------------------------------------------------


def test_an_image_is_made_once_for_all_who_ask_and_let_go_when_nobody_does() -> None:
    made: list[str] = []
    store = store_at(7)
    server = ImageServer(store, lambda to, frame: bool(made.append(to)) or True, settings())
    ways = Ways(b=7)
    ways.fetch.want(5, "b", [])
    ((_, _, frame),) = ways.frames
    ((_, _, _, _, body),) = FrameReader(1 << 20).feed(frame)
    for node in ("x", "y", "x"):
        server.asked(node, body)
    assert len(store.jobs) == 1
    store.step()
    assert sorted(made) == ["x", "y"]
    for _ in range(31 * TIMEOUT_TICKS):
        server.tick()
    server.asked("x", body)
    assert len(store.jobs) == 1, "another one"
