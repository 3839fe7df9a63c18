"""Somebody who counts up, and others who look at every node: nobody may ever see less than was there before.

A value counts from when its write was acknowledged, or when anybody has read it: whoever asks later, of whichever node,
must see it or a newer one. The writer compares revisions, so that a write whose answer was lost, and that comes late,
changes nothing.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections import Counter
from types import TracebackType
from typing import Self

from fastkv._core.codes import Consistency, Opcode, Status
from fastkv._core.frames import FrameReader, encode_frame
from fastkv.client import load
from fastkv.client.addresses import Address
from fastkv.wire.client import decode_record, encode_get
from tests.e2e.cluster import Cluster, Node, eventually

KEY = "counter"
LIMIT_S = 60.0
PACE_S = 0.005
"""Between two requests of a thread: what is tested is not load."""

FRESH = ("linearizable", "lease")
"""The consistencies that promise the newest value."""

NO_ANSWER = (OSError, http.client.HTTPException)


class Watch:
    """A writer and a reader for each node, each on a thread, until the end of the `with` block."""

    def __init__(self, cluster: Cluster) -> None:
        self.stale: list[str] = []
        self.answered: Counter[str] = Counter()
        """Reads of each node that were answered with a value."""
        self.floor = 0
        """The oldest value that a read which begins now may see."""
        self.writes = 0
        self._nodes = list(cluster)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._write)]
        self._threads += [threading.Thread(target=self._read, args=(node,)) for node in cluster]

    def saw(self, value: int, floor: int, what: str) -> None:
        """A read that began when `floor` held has seen a value."""
        with self._lock:
            if value < floor:
                self.stale.append(f"{what}: {value}, after {floor}")
            self.floor = max(self.floor, value)

    def until(self, more_writes: int) -> None:
        """Wait until so many more writes have been acknowledged."""
        wanted = self.writes + more_writes
        eventually(lambda: self.writes >= wanted, within_s=LIMIT_S, what=f"{more_writes} more writes")

    def _write(self) -> None:
        turn, known = 0, None
        while not self._stopped.wait(PACE_S):
            node = self._nodes[turn % len(self._nodes)]
            try:
                known = self._look(node) if known is None else self._count_up(node, *known)
            except NO_ANSWER:
                known = None
            turn += known is None       # a node that has no answer for us may be paused

    @staticmethod
    def _look(node: Node) -> tuple[int, int] | None:
        """Value and revision; None where the node does not say."""
        status, answer = node.request("GET", f"/kv/{KEY}", timeout_s=1)
        if status == 404:
            return 0, 0
        return (int(answer["value"]), answer["revision"]) if status == 200 else None

    def _count_up(self, node: Node, value: int, revision: int) -> tuple[int, int] | None:
        body = b"%d" % (value + 1)
        status, answer = node.request("PUT", f"/kv/{KEY}?if_revision={revision}", body, timeout_s=1)
        if status not in (200, 201):
            return None
        with self._lock:
            self.floor = max(self.floor, value + 1)
            self.writes += 1
        return value + 1, answer["revision"]

    def _read(self, node: Node) -> None:
        while not self._stopped.wait(PACE_S):
            for consistency in FRESH:
                floor = self.floor
                try:
                    status, answer = node.get(KEY, f"?consistency={consistency}")
                except NO_ANSWER:
                    continue
                if status == 200:
                    self.saw(int(answer["value"]), floor, f"{consistency} on {node.node_id}")
                    self.answered[node.node_id] += 1

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.until(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


class Questions:
    """Reads that are sent to a node at a moment of the test's choice, and may wait in its sockets: over HTTP, and many
    on one binary connection, which is opened here, while the node answers."""

    PIPELINED = 32

    def __init__(self, node: Node) -> None:
        self.node = node
        self._binary = eventually(self._greeted, within_s=LIMIT_S, what=f"{node.node_id} takes connections")
        self._binary.settimeout(LIMIT_S)
        self._http: list[tuple[str, http.client.HTTPConnection]] = []

    def _greeted(self) -> socket.socket | None:
        try:
            return load.connect(Address.parse(self.node.endpoint))
        except OSError:
            return None

    def ask(self, key: str = KEY) -> None:
        """Send them all, and wait for nothing."""
        for consistency in FRESH * 2:
            connection = http.client.HTTPConnection("127.0.0.1", self.node.http_port, timeout=LIMIT_S)
            connection.request("GET", f"/kv/{key}?consistency={consistency}")
            self._http.append((consistency, connection))
        kinds = (Consistency.LINEARIZABLE, Consistency.LEASE_READ)
        self._binary.sendall(
            b"".join(
                encode_frame(Opcode.GET, 0, 0, number, encode_get(key.encode(), kinds[number % 2]))
                for number in range(self.PIPELINED)
            )
        )

    def answers(self) -> list[tuple[str, str]]:
        """How each was asked and what it was answered, but for those that were refused. Closes the connections."""
        answers = []
        for consistency, connection in self._http:
            response = connection.getresponse()
            said = response.read()
            assert response.status in (200, 503, 504), said
            if response.status == 200:
                answers.append((f"HTTP {consistency}", json.loads(said)["value"]))
            connection.close()
        return answers + self._binary_answers()

    def _binary_answers(self) -> list[tuple[str, str]]:
        reader, answers, missing = FrameReader(1 << 16), [], self.PIPELINED
        while missing:
            received = self._binary.recv(1 << 16)
            assert received, "the node hung up"
            for _, _, status, _, body in reader.feed(received):
                missing -= 1
                assert status in (Status.OK, Status.NO_LEADER, Status.TIMEOUT), (status, body)
                if status == Status.OK:
                    answers.append(("binary", decode_record(body).value.decode()))
        self._binary.close()
        return answers
