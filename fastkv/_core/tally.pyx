"""How many requests were answered, with what, and after how long: counted on the hot path without a Python object.

A connection counts each answer as it writes it, into arrays indexed by opcode, status and bucket: a few nanoseconds.
The duration runs from the turn of the loop in which a request was read to the answer's place in the output buffer. Who
scrapes the metrics reads the arrays.
"""

from libc.string cimport memset

BOUNDS_S = tuple([LIMITS_US[i] / 1e6 for i in range(BOUNDS)])


cdef class Tally:
    """The answers of one node's raw port."""

    def __cinit__(self):
        memset(&self.counts, 0, sizeof(Counts))

    @property
    def now_us(self):
        """What the clock showed when it was looked at last: when the requests of this turn came."""
        return self.counts.now_us

    def look(self):
        """Look at the clock: what is counted from here on is answered now."""
        look_at_clock(&self.counts)

    def count(self, uint8_t opcode, uint16_t status, uint32_t asked_us):
        """Count one answer, to what was asked when `now_us` was `asked_us`."""
        count_answer(&self.counts, opcode, status, asked_us)

    def answered(self):
        """(opcode, status): how many answers. Opcodes and statuses that no protocol knows are 0 and STATUSES - 1."""
        return {
            (opcode, status): self.counts.answered[opcode][status]
            for opcode in range(OPCODES)
            for status in range(STATUSES)
            if self.counts.answered[opcode][status]
        }

    def took(self, int opcode):
        """How long an opcode's answers took: a counter for each bucket of BOUNDS_S and one above, and the sum in s.

        ValueError for an opcode that is not counted by itself.
        """
        if not 0 <= opcode < OPCODES:
            raise ValueError(f"opcode {opcode:#x} is not counted by itself")
        return [self.counts.took[opcode][i] for i in range(BUCKETS)], self.counts.took_us[opcode] / 1e6
