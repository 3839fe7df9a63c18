"""A compiled load generator: one thread, one epoll loop, no Python object for an operation and no GIL while it runs.

A benchmark measures the slower of the two sides, so the measuring side has to cost little: requests of one read are
answered with the next ones in a single `send`, replies are counted from their 16-byte headers and their bodies are
skipped, and the result states the generator's own CPU share, so that a reader can see whether it was the bottleneck.

The load is *closed*: `depth` requests are in flight on each of `connections` connections, and each answer is followed
by the next request. A request's latency runs from the moment it was ready to be sent to the moment its answer was
read. A stalled server therefore slows the load down as well; the percentiles are those of this closed load, and not
of requests that arrive at a fixed rate.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memmove, memset
from posix.time cimport CLOCK_MONOTONIC, CLOCK_THREAD_CPUTIME_ID
from posix.unistd cimport close as close_fd

from fastkv._core.codes cimport (
    COMMAND_HEADER_BYTES, FRAME_HEADER_BYTES, FrameFlag, MAX_KEY_BYTES, Opcode, PROTOCOL_VERSION, Status,
)
from fastkv._core.cursor cimport load_u16, load_u32, load_u64, store_u16, store_u32, store_u64
from fastkv._core.epoll cimport (
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLIN, EPOLLOUT, MSG_NOSIGNAL, clock_ns, epoll_create1, epoll_ctl,
    epoll_event, epoll_wait, recv, send,
)
from fastkv._core.histogram cimport Histogram
from fastkv._core.splitmix cimport splitmix64

import socket
import struct

from fastkv._core import codes

cdef enum:
    RECEIVE_BYTES = 262144
    READY_LINKS = 64                # links served for each epoll_wait
    TICK_MS = 100                   # how often signals and the deadline are looked at
    GET_HEADER_BYTES = 4
    OUTPUT_LIMIT_BYTES = 1073741824     # 1 GiB, of all connections together
    ANSWER_LIMIT_BYTES = 67108864       # 64 MiB

cdef uint64_t DRAIN_NS = 5_000_000_000      # how long answers are waited for once nothing more is asked
cdef double HELLO_TIMEOUT_S = 5.0


cdef class _Generator:
    """One run. Used through `run` and `load`.

    Counters are written `self.x = self.x + 1`: the debug build's None check of `self.x += 1` would need the GIL.
    """

    def __cinit__(self):
        self.epoll = -1
        self.received = <uint8_t*>malloc(RECEIVE_BYTES)
        if self.received == NULL:
            raise MemoryError
        memset(self.statuses, 0, sizeof(self.statuses))

    def __dealloc__(self):
        cdef int i
        if self.links != NULL:
            for i in range(self.link_count):
                free(self.links[i].out)
                free(self.links[i].slots)
        free(self.links)
        free(self.received)
        if self.epoll >= 0:
            close_fd(self.epoll)

    cdef int open_links(self, list sockets) except -1:
        cdef int i
        cdef Link* link
        cdef epoll_event event
        cdef size_t frame_bytes = FRAME_HEADER_BYTES + COMMAND_HEADER_BYTES + self.key_bytes + self.value_bytes
        if frame_bytes * self.depth * len(sockets) > OUTPUT_LIMIT_BYTES:
            raise ValueError("connections x depth x value_bytes is over 1 GiB")
        self.epoll = epoll_create1(0)
        self.links = <Link*>calloc(len(sockets), sizeof(Link))
        if self.links == NULL:
            raise MemoryError
        self.link_count = <int>len(sockets)
        for i in range(self.link_count):
            link = &self.links[i]
            link.fd = sockets[i].fileno()
            link.depth = self.depth
            link.out = <uint8_t*>malloc(frame_bytes * self.depth)
            link.slots = <Slot*>calloc(self.depth, sizeof(Slot))
            if link.out == NULL or link.slots == NULL:
                raise MemoryError
            event.events = EPOLLIN
            event.data.ptr = link
            if epoll_ctl(self.epoll, EPOLL_CTL_ADD, link.fd, &event) < 0:
                raise OSError(errno, "epoll_ctl")
        return 0

    # -- asking ------------------------------------------------------------------------------------------------------

    cdef uint64_t random(self) noexcept nogil:
        return splitmix64(&self.random_state)

    cdef void write_key(self, uint8_t* at, uint64_t number) noexcept nogil:
        cdef uint32_t i = self.key_bytes
        memcpy(at, <const uint8_t*>b"key-", 4)
        while i > 4:
            i -= 1
            at[i] = <uint8_t>(48 + number % 10)
            number //= 10

    cdef void ask(self, Link* link, uint32_t slot, uint64_t now_ns) noexcept nogil:
        """Put the next request behind the link's output."""
        cdef uint8_t* at = link.out + link.out_bytes
        cdef bint read = not self.sequential and self.random() < self.read_threshold
        cdef uint64_t number = self.asked if self.sequential else self.random() % self.keys
        cdef size_t body_bytes = self.key_bytes
        body_bytes += GET_HEADER_BYTES if read else COMMAND_HEADER_BYTES + self.value_bytes
        store_u32(at, <uint32_t>body_bytes)
        at[4] = Opcode.GET if read else Opcode.PUT
        at[5] = 0
        store_u16(at + 6, 0)
        store_u64(at + 8, slot)
        link.out_bytes += FRAME_HEADER_BYTES + body_bytes
        link.slots[slot].started_ns = now_ns
        link.slots[slot].opcode = at[4]
        at += FRAME_HEADER_BYTES
        if read:
            at[0] = self.consistency
            at[1] = 0
            store_u16(at + 2, <uint16_t>self.key_bytes)
            self.write_key(at + GET_HEADER_BYTES, number)
        else:
            store_u16(at, <uint16_t>self.key_bytes)
            store_u16(at + 2, 0)
            self.write_key(at + COMMAND_HEADER_BYTES, number)
            at += COMMAND_HEADER_BYTES + self.key_bytes
            memcpy(at, self.value_at, self.value_bytes)
            if self.value_bytes >= 8:
                store_u64(at, self.asked)       # so that no two writes store the same value
        self.asked = self.asked + 1
        self.in_flight = self.in_flight + 1

    cdef void send_all(self, Link* link) noexcept nogil:
        cdef ssize_t sent
        while link.fd >= 0 and link.out_sent < link.out_bytes:
            sent = send(link.fd, link.out + link.out_sent, link.out_bytes - link.out_sent, MSG_NOSIGNAL)
            if sent >= 0:
                link.out_sent += <size_t>sent
            elif errno == EAGAIN:
                # What is left moves to the front: with what is answered meanwhile it is never more than depth frames.
                memmove(link.out, link.out + link.out_sent, link.out_bytes - link.out_sent)
                link.out_bytes -= link.out_sent
                link.out_sent = 0
                self.watch(link, True)
                return
            elif errno != EINTR:
                self.drop(link)
                return
        link.out_bytes = link.out_sent = 0
        self.watch(link, False)

    cdef void watch(self, Link* link, bint blocked) noexcept nogil:
        cdef epoll_event event
        if link.fd < 0 or blocked == link.blocked:
            return
        link.blocked = blocked
        event.events = EPOLLIN | EPOLLOUT if blocked else EPOLLIN
        event.data.ptr = link
        epoll_ctl(self.epoll, EPOLL_CTL_MOD, link.fd, &event)

    # -- being answered ----------------------------------------------------------------------------------------------

    cdef void drop(self, Link* link) noexcept nogil:
        """The connection is gone: what was in flight on it is lost. The socket itself belongs to `drive`."""
        cdef uint32_t slot
        cdef epoll_event event
        if link.fd < 0:
            return
        epoll_ctl(self.epoll, EPOLL_CTL_DEL, link.fd, &event)
        link.fd = -1
        for slot in range(link.depth):
            if link.slots[slot].started_ns:
                link.slots[slot].started_ns = 0
                self.lost = self.lost + 1
                self.in_flight = self.in_flight - 1

    cdef void receive(self, Link* link) noexcept nogil:
        cdef ssize_t got
        cdef uint64_t now_ns
        while link.fd >= 0:
            got = recv(link.fd, self.received, RECEIVE_BYTES, 0)
            if got > 0:
                now_ns = clock_ns(CLOCK_MONOTONIC)
                self.parse(link, self.received, self.received + got, now_ns)
                if got < RECEIVE_BYTES:
                    return
            elif got < 0 and errno == EINTR:
                continue
            else:
                if got == 0 or errno != EAGAIN:
                    self.drop(link)
                return

    cdef void parse(self, Link* link, const uint8_t* at, const uint8_t* end, uint64_t now_ns) noexcept nogil:
        cdef size_t part
        while link.fd >= 0:
            if link.head_have < FRAME_HEADER_BYTES:
                part = min(<size_t>(end - at), <size_t>(FRAME_HEADER_BYTES - link.head_have))
                memcpy(link.head + link.head_have, at, part)
                link.head_have += <uint32_t>part
                at += part
                if link.head_have < FRAME_HEADER_BYTES:
                    return
                link.body_left = load_u32(link.head)
                if link.body_left > ANSWER_LIMIT_BYTES:
                    self.unexpected = self.unexpected + 1
                    self.drop(link)
                    return
            part = min(<size_t>(end - at), <size_t>link.body_left)
            link.body_left -= <uint32_t>part
            at += part
            if link.body_left:
                return
            link.head_have = 0
            self.take_answer(link, now_ns)

    cdef void take_answer(self, Link* link, uint64_t now_ns) noexcept nogil:
        cdef uint64_t slot = load_u64(link.head + 8)
        cdef uint16_t status = load_u16(link.head + 6)
        cdef Slot* asked
        if slot >= link.depth or link.slots[slot].started_ns == 0 or link.head[4] != link.slots[slot].opcode:
            # An ERROR frame, or an answer to nothing we asked: no later answer of this connection can be trusted.
            if link.head[4] == Opcode.ERROR and status < STATUSES:
                self.statuses[status] = self.statuses[status] + 1
            else:
                self.unexpected = self.unexpected + 1
            self.drop(link)
            return
        asked = &link.slots[slot]
        self.latency.add(now_ns - asked.started_ns)
        status = min(status, <uint16_t>(STATUSES - 1))
        self.statuses[status] = self.statuses[status] + 1
        if link.head[5] & <uint8_t>FrameFlag.FORWARDED:
            self.forwarded = self.forwarded + 1
        asked.started_ns = 0
        self.answered = self.answered + 1
        self.in_flight = self.in_flight - 1
        self.ended_ns = now_ns
        if self.asked < self.count and now_ns < self.deadline_ns:
            self.ask(link, <uint32_t>slot, now_ns)

    # -- the loop ----------------------------------------------------------------------------------------------------

    cdef int turn(self) except -1 nogil:
        """Wait once and serve every link that is ready."""
        cdef epoll_event[READY_LINKS] events
        cdef Link* link
        cdef int i
        cdef int ready = epoll_wait(self.epoll, events, READY_LINKS, TICK_MS)
        if ready < 0 and errno != EINTR:
            with gil:
                raise OSError(errno, "epoll_wait")
        for i in range(ready):
            link = <Link*>events[i].data.ptr
            if events[i].events & ~<uint32_t>EPOLLOUT:      # readable, or an error that recv will tell
                self.receive(link)
            self.send_all(link)
        return 0

    cdef int loop(self) except -1 nogil:
        cdef uint64_t next_tick_ns = self.started_ns + TICK_MS * 1_000_000
        cdef uint64_t now_ns
        cdef uint64_t cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID)
        cdef uint32_t slot
        cdef int i
        for i in range(self.link_count):
            for slot in range(self.depth):
                if self.asked < self.count:
                    self.ask(&self.links[i], slot, clock_ns(CLOCK_MONOTONIC))
            self.send_all(&self.links[i])
        while self.in_flight:
            self.turn()
            now_ns = clock_ns(CLOCK_MONOTONIC)
            if now_ns >= next_tick_ns:
                next_tick_ns = now_ns + TICK_MS * 1_000_000
                if now_ns > self.deadline_ns + DRAIN_NS:
                    break
                with gil:
                    PyErr_CheckSignals()
                    if self.on_progress is not None and self.on_progress(self.answered) is True:
                        self.deadline_ns = min(self.deadline_ns, now_ns)
        self.cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_ns
        return 0

    cdef dict result(self):
        cdef double seconds = max(self.ended_ns - self.started_ns, <uint64_t>1) / 1e9
        names = {int(status): status.name for status in codes.Status}
        errors = {
            names.get(status, str(status)): self.statuses[status]
            for status in range(STATUSES)
            if self.statuses[status] and status != Status.OK and status != Status.KEY_NOT_FOUND
        }
        return {
            "count": self.answered,
            "ok": self.statuses[<int>Status.OK],
            "missing": self.statuses[<int>Status.KEY_NOT_FOUND],
            "errors": errors,
            "lost": self.lost,
            "unanswered": self.in_flight,
            "unexpected": self.unexpected,
            "forwarded": self.forwarded,
            "seconds": seconds,
            "throughput": (self.statuses[<int>Status.OK] + self.statuses[<int>Status.KEY_NOT_FOUND]) / seconds,
            "latency_us": self.latency.summary_us(),
            "cpu_seconds": self.cpu_ns / 1e9,
            "cpu_share": self.cpu_ns / 1e9 / seconds,
        }


def connect(str host, int port):
    """A connected, greeted, non-blocking socket. ConnectionError with the server's text where it refuses the HELLO."""
    client = socket.create_connection((host, port), timeout=HELLO_TIMEOUT_S)
    try:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        hello = struct.pack("<4sHBBHHH", b"fkv1", PROTOCOL_VERSION, 1, 0, 0, 0, 0)
        client.sendall(struct.pack("<IBBHQ", len(hello), Opcode.HELLO, 0, 0, 0) + hello)
        body_bytes, opcode, _, status, _ = struct.unpack("<IBBHQ", receive_exactly(client, FRAME_HEADER_BYTES))
        body = receive_exactly(client, min(body_bytes, 1 << 16))
        if opcode != Opcode.HELLO or status != Status.OK:
            raise ConnectionError(f"{host}:{port} refused the HELLO: {body.decode(errors='replace')}")
        client.setblocking(False)
    except BaseException:
        client.close()
        raise
    return client


cdef bytes receive_exactly(client, Py_ssize_t nbytes):
    cdef bytearray received = bytearray()
    while len(received) < nbytes:
        part = client.recv(nbytes - len(received))
        if not part:
            raise ConnectionError("the server closed the connection during HELLO")
        received += part
    return bytes(received)


def run(
    str host, int port, *, str operation="put", int connections=1, int depth=1, uint64_t count=10_000,
    uint64_t keys=100_000, int key_bytes=16, int value_bytes=128, uint64_t seed=1, double max_seconds=60.0,
    double read_ratio=0.5, int consistency=0, bint sequential=False, on_progress=None,
):
    """Send `count` operations, or for `max_seconds`, whichever ends first; see `loadgen.pyi` for the answer."""
    cdef _Generator generator = _Generator()
    if operation not in ("put", "get", "mixed"):
        raise ValueError(f"operation is put, get or mixed, not {operation!r}")
    if connections < 1 or depth < 1 or keys < 1 or max_seconds <= 0:
        raise ValueError("connections, depth, keys and max_seconds are above 0")
    if not 5 <= key_bytes <= MAX_KEY_BYTES or len(str(keys - 1)) > key_bytes - 4:
        raise ValueError(f"key_bytes is from 5 to {MAX_KEY_BYTES}, with room for 'key-' and {keys - 1}")
    if value_bytes < 0 or not 0 <= read_ratio <= 1:
        raise ValueError("value_bytes is not below 0, and read_ratio is from 0 to 1")
    if not 0 <= consistency <= 2:
        raise ValueError(f"consistency is 0 (linearizable), 1 (lease) or 2 (stale), not {consistency}")
    generator.latency = Histogram()
    generator.on_progress = on_progress
    generator.random_state = seed
    generator.keys = keys
    generator.count = count
    generator.depth = depth
    generator.key_bytes = key_bytes
    generator.value_bytes = value_bytes
    generator.consistency = consistency
    generator.sequential = sequential
    ratio = {"put": 0.0, "get": 1.0, "mixed": read_ratio}[operation]
    generator.read_threshold = min(int(ratio * 2**64), 2**64 - 1)
    generator.value = bytes(32 + (<int>(generator.random() % 95)) for _ in range(value_bytes))
    generator.value_at = PyBytes_AS_STRING(generator.value)
    sockets = []
    try:
        for _ in range(connections):
            sockets.append(connect(host, port))
        generator.open_links(sockets)
        generator.started_ns = generator.ended_ns = clock_ns(CLOCK_MONOTONIC)
        generator.deadline_ns = generator.started_ns + <uint64_t>(max_seconds * 1e9)
        with nogil:
            generator.loop()
    finally:
        for client in sockets:
            client.close()
    return generator.result()


def load(
    str host, int port, *, uint64_t keys=100_000, int key_bytes=16, int value_bytes=128, int connections=16,
    int depth=64, uint64_t seed=1, double max_seconds=600.0, on_progress=None,
):
    """Write every key once, in order. The same answer as `run`."""
    return run(
        host, port, operation="put", connections=connections, depth=depth, count=keys, keys=keys, key_bytes=key_bytes,
        value_bytes=value_bytes, seed=seed, max_seconds=max_seconds, sequential=True, on_progress=on_progress,
    )
