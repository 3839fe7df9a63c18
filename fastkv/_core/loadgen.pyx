"""A compiled load generator: one thread, one epoll loop, no Python object for an operation and no GIL while it runs.

A benchmark measures the slower of the two sides, so the measuring side has to cost little: requests of one read are
answered with the next ones in a single `send`, replies are counted from their 16-byte headers and their bodies are
skipped, and the result states the generator's own CPU share, so that a reader can see whether it was the bottleneck.

A load is *closed* or *open*. Closed: `depth` requests are in flight on each of `connections` connections, and each
answer is followed by the next request; a latency runs from the moment a request was ready to be sent. A stalled server
slows such a load down, so its percentiles leave out the requests that would have come meanwhile. Open: requests come at
a `rate` of their own, at random moments as independent clients make them (a Poisson process), and a latency runs from
the moment a request was *due*, however long it had to wait for a place: nothing is left out, which is what is called
coordinated omission (Tene, "How NOT to measure latency", 2013).
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memmove, memset
from posix.time cimport CLOCK_MONOTONIC, CLOCK_THREAD_CPUTIME_ID
from posix.unistd cimport close as close_fd

from cpython.exc cimport PyErr_CheckSignals

from fastkv._core.codes cimport FRAME_HEADER_BYTES, FrameFlag, Opcode, Status
from fastkv._core.cursor cimport load_u16, load_u32, load_u64
from fastkv._core.epoll cimport (
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLIN, EPOLLOUT, MSG_NOSIGNAL, clock_ns, epoll_create1, epoll_ctl,
    epoll_event, epoll_wait, recv, send,
)
from fastkv._core.histogram cimport Histogram
from fastkv._core.schedule cimport Place, Schedule
from fastkv._core.workload cimport WANT_GET, WANT_INSERT, WANT_MODIFY, WANT_PUT, WANT_SCAN, Wanted, Workload

from fastkv._core import codes
from fastkv._core import workload as workloads

cdef enum:
    RECEIVE_BYTES = 262144
    READY_LINKS = 64                # links served for each epoll_wait
    TICK_MS = 100                   # how often signals and the deadline are looked at
    OUTPUT_LIMIT_BYTES = 1073741824     # 1 GiB, of all connections together
    ANSWER_LIMIT_BYTES = 67108864       # 64 MiB

cdef uint64_t DRAIN_NS = 5_000_000_000      # how long answers are waited for once nothing more is asked


cdef class _Generator:
    """One run. Used through `drive`.

    Counters are written `self.x = self.x + 1`: the debug build's None check of `self.x += 1` would need the GIL.
    """

    def __cinit__(self):
        self.epoll = -1
        self.received = <uint8_t*>malloc(RECEIVE_BYTES)
        if self.received == NULL:
            raise MemoryError
        memset(self.statuses, 0, sizeof(self.statuses))
        self.gets, self.puts, self.inserts = Histogram(), Histogram(), Histogram()
        self.scans, self.modifies = Histogram(), Histogram()

    def __dealloc__(self):
        cdef int i
        if self.links != NULL:
            for i in range(self.link_count):
                free(self.links[i].out)
                free(self.links[i].slots)
        free(self.links)
        free(self.to_send)
        free(self.received)
        if self.epoll >= 0:
            close_fd(self.epoll)

    cdef int open_links(self, list sockets) except -1:
        cdef int i
        cdef Link* link
        cdef epoll_event event
        cdef size_t frame_bytes = self.workload.frame_limit_bytes()
        if frame_bytes * self.depth * len(sockets) > OUTPUT_LIMIT_BYTES:
            raise ValueError("connections x depth x value_bytes is over 1 GiB")
        self.epoll = epoll_create1(0)
        self.links = <Link*>calloc(len(sockets), sizeof(Link))
        if self.links == NULL:
            raise MemoryError
        self.link_count = self.links_open = <int>len(sockets)
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

    cdef int open_schedule(self, double rate, uint64_t seed) except -1:
        """Make the load an open one."""
        cdef epoll_event event
        self.schedule = Schedule(rate, self.link_count, self.depth, seed, clock_ns(CLOCK_MONOTONIC))
        self.to_send = <Link**>calloc(self.link_count, sizeof(Link*))
        if self.to_send == NULL:
            raise MemoryError
        event.events = EPOLLIN
        event.data.ptr = NULL
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, self.schedule.timer, &event) < 0:
            raise OSError(errno, "epoll_ctl")
        self.open = True
        return 0

    # -- asking ------------------------------------------------------------------------------------------------------

    cdef void ask(self, Link* link, uint32_t slot, uint64_t due_ns) noexcept nogil:
        """Put the next request behind the link's output."""
        cdef Wanted wanted
        cdef Slot* place = &link.slots[slot]
        self.workload.draw(&wanted)
        place.started_ns = due_ns
        place.number = wanted.number
        place.kind = wanted.kind
        if wanted.kind == WANT_GET or wanted.kind == WANT_MODIFY:
            place.opcode = Opcode.GET
        else:
            place.opcode = Opcode.SCAN if wanted.kind == WANT_SCAN else Opcode.PUT
        self.write_frame(link, slot)
        self.asked = self.asked + 1
        self.in_flight = self.in_flight + 1

    cdef void write_frame(self, Link* link, uint32_t slot) noexcept nogil:
        cdef uint8_t* at = link.out + link.out_bytes
        cdef uint64_t number = link.slots[slot].number
        if link.slots[slot].opcode == Opcode.GET:
            link.out_bytes += self.workload.write_get(at, slot, number)
        elif link.slots[slot].opcode == Opcode.PUT:
            link.out_bytes += self.workload.write_put(at, slot, number)
        else:
            link.out_bytes += self.workload.write_scan(at, slot, number)

    cdef void free_slot(self, Link* link, uint32_t slot, uint64_t now_ns) noexcept nogil:
        """A request may be put there: in a closed load at once, in an open one when the next is due."""
        cdef Place place
        if not self.open:
            if self.asked < self.count and now_ns < self.deadline_ns:
                self.ask(link, slot, now_ns)
            return
        place.link = <uint32_t>(link - self.links)
        place.slot = slot
        self.schedule.give_back(place)

    cdef bint free_place(self, Place* place) noexcept nogil:
        """One on a connection that is open; False where there is none."""
        while self.schedule.take(place):
            if self.links[place.link].fd >= 0:
                return True
        return False

    cdef bint something_due(self, uint64_t now_ns) noexcept nogil:
        """Whether, in an open load, another request is due by then."""
        return self.open and self.schedule.due_ns <= min(now_ns, self.deadline_ns) and self.asked < self.count

    cdef void ask_what_is_due(self, uint64_t now_ns) noexcept nogil:
        """In an open load, once for each turn."""
        cdef Place place
        cdef Link* link
        cdef int i
        while self.something_due(now_ns) and self.free_place(&place):
            link = &self.links[place.link]
            self.ask(link, place.slot, self.schedule.due_ns)
            if not link.unsent:
                link.unsent = True
                self.to_send[self.to_send_count] = link
                self.to_send_count = self.to_send_count + 1
            self.schedule.advance()
        for i in range(self.to_send_count):
            self.to_send[i].unsent = False
            self.send_all(self.to_send[i])
        self.to_send_count = 0
        if self.schedule.due_ns > now_ns:
            self.schedule.arm()             # and where it is due, but no place is free, an answer comes first

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
        """The connection is gone: what was in flight on it is lost. The socket itself belongs to the caller."""
        cdef uint32_t slot
        cdef epoll_event event
        if link.fd < 0:
            return
        epoll_ctl(self.epoll, EPOLL_CTL_DEL, link.fd, &event)
        link.fd = -1
        self.links_open = self.links_open - 1
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
        if asked.kind == WANT_MODIFY and asked.opcode == Opcode.GET and status in (Status.OK, Status.KEY_NOT_FOUND):
            asked.opcode = Opcode.PUT
            self.write_frame(link, <uint32_t>slot)
            return
        self.note(asked.kind, now_ns - asked.started_ns)
        status = min(status, <uint16_t>(STATUSES - 1))
        self.statuses[status] = self.statuses[status] + 1
        if link.head[5] & <uint8_t>FrameFlag.FORWARDED:
            self.forwarded = self.forwarded + 1
        asked.started_ns = 0
        self.answered = self.answered + 1
        self.in_flight = self.in_flight - 1
        self.ended_ns = now_ns
        self.free_slot(link, <uint32_t>slot, now_ns)

    cdef void note(self, uint8_t kind, uint64_t took_ns) noexcept nogil:
        if kind == WANT_GET:
            self.gets.add(took_ns)
        elif kind == WANT_PUT:
            self.puts.add(took_ns)
        elif kind == WANT_INSERT:
            self.inserts.add(took_ns)
            self.workload.answered_insert()
        elif kind == WANT_SCAN:
            self.scans.add(took_ns)
        else:
            self.modifies.add(took_ns)

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
            if link == NULL:
                self.schedule.rang()
                continue
            if events[i].events & ~<uint32_t>EPOLLOUT:      # readable, or an error that recv will tell
                self.receive(link)
            self.send_all(link)
        if self.open:
            self.ask_what_is_due(clock_ns(CLOCK_MONOTONIC))
        return 0

    cdef int begin(self) except -1 nogil:
        cdef int i
        cdef uint32_t slot
        if self.open:
            self.ask_what_is_due(self.started_ns)
            return 0
        for i in range(self.link_count):
            for slot in range(self.depth):
                self.free_slot(&self.links[i], slot, clock_ns(CLOCK_MONOTONIC))
            self.send_all(&self.links[i])
        return 0

    cdef bint goes_on(self) noexcept nogil:
        """Whether there is anything to send, or to wait for."""
        return self.in_flight > 0 or (self.links_open > 0 and self.something_due(self.deadline_ns))

    cdef int loop(self) except -1 nogil:
        cdef uint64_t next_tick_ns = self.started_ns + TICK_MS * 1_000_000
        cdef uint64_t now_ns
        cdef uint64_t cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID)
        self.begin()
        while self.goes_on():
            self.turn()
            now_ns = clock_ns(CLOCK_MONOTONIC)
            if now_ns >= next_tick_ns:
                next_tick_ns = now_ns + TICK_MS * 1_000_000
                if now_ns > self.deadline_ns + DRAIN_NS:
                    break
                self.look_around(now_ns)
        while self.something_due(self.deadline_ns):
            self.asked = self.asked + 1
            self.unsent = self.unsent + 1
            self.schedule.advance()
        self.cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_ns
        return 0

    cdef int look_around(self, uint64_t now_ns) except -1 nogil:
        """What needs Python, ten times a second."""
        with gil:
            PyErr_CheckSignals()
            if self.on_progress is not None and self.on_progress(self.answered) is True:
                self.deadline_ns = min(self.deadline_ns, now_ns)
        return 0

    cdef dict result(self):
        cdef double seconds = max(self.ended_ns - self.started_ns, <uint64_t>1) / 1e9
        cdef Histogram all_kinds = Histogram()
        names = {int(status): status.name for status in codes.Status}
        errors = {
            names.get(status, str(status)): self.statuses[status]
            for status in range(STATUSES)
            if self.statuses[status] and status != Status.OK and status != Status.KEY_NOT_FOUND
        }
        kinds = zip(workloads.KINDS, (self.gets, self.puts, self.inserts, self.scans, self.modifies))
        operations = {}
        for kind, latency in kinds:
            if len(latency):
                operations[kind] = {"count": len(latency), "latency_us": latency.summary_us()}
                all_kinds.merge(latency)
        return {
            "count": self.answered,
            "ok": self.statuses[<int>Status.OK],
            "missing": self.statuses[<int>Status.KEY_NOT_FOUND],
            "errors": errors,
            "lost": self.lost,
            "unanswered": self.in_flight,
            "unsent": self.unsent,
            "unexpected": self.unexpected,
            "forwarded": self.forwarded,
            "seconds": seconds,
            "throughput": (self.statuses[<int>Status.OK] + self.statuses[<int>Status.KEY_NOT_FOUND]) / seconds,
            "latency_us": all_kinds.summary_us(),
            "curve_us": all_kinds.curve_us(),
            "operations": operations,
            "cpu_seconds": self.cpu_ns / 1e9,
            "cpu_share": self.cpu_ns / 1e9 / seconds,
        }


def drive(
    list sockets not None, Workload workload not None, *, int depth=1, uint64_t count=10_000, rate=None,
    double max_seconds=60.0, uint64_t seed=1, on_progress=None,
):
    """Carry out a workload on greeted, non-blocking sockets; see `loadgen.pyi`."""
    cdef _Generator generator = _Generator()
    if not sockets or depth < 1 or max_seconds <= 0:
        raise ValueError("the number of sockets, depth and max_seconds are above 0")
    generator.workload = workload
    generator.on_progress = on_progress
    generator.count = count
    generator.depth = depth
    generator.open_links(sockets)
    if rate is not None:
        generator.open_schedule(rate, seed)
    generator.started_ns = generator.ended_ns = clock_ns(CLOCK_MONOTONIC)
    generator.deadline_ns = generator.started_ns + <uint64_t>(max_seconds * 1e9)
    with nogil:
        generator.loop()
    return generator.result()
