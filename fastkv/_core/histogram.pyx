"""A latency histogram: fixed memory, constant time for a value, every percentile within 0.8 %.

The layout is HdrHistogram's idea in its smallest form: values below 128 have a bucket each, and every power of two
above is cut into 128 equal buckets. So a quantile's error is relative (a p99.9 of 80 ms is as exact as a p50 of 80 µs)
and nothing is sampled or forgotten, which averages and reservoirs both do to exactly the values that matter.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memset

cdef extern from *:
    int __builtin_clzll(unsigned long long value) noexcept nogil


cdef inline Py_ssize_t bucket_of(uint64_t value) noexcept nogil:
    cdef int shift
    if value < SUB_BUCKETS:
        return <Py_ssize_t>value
    shift = 63 - __builtin_clzll(value) - SUB_BUCKET_BITS
    # The top eight bits of the value are 128..255: the power of two is in `shift`, the place within it in the rest.
    return (shift + 1) * SUB_BUCKETS + <Py_ssize_t>(value >> shift) - SUB_BUCKETS


cdef inline uint64_t bucket_top(Py_ssize_t bucket) noexcept nogil:
    """The largest value that falls into the bucket."""
    cdef int shift
    if bucket < SUB_BUCKETS:
        return <uint64_t>bucket
    shift = <int>(bucket // SUB_BUCKETS) - 1
    return ((<uint64_t>(bucket % SUB_BUCKETS) + SUB_BUCKETS) << shift) | ((<uint64_t>1 << shift) - 1)


cdef class Histogram:
    """Counts of durations in nanoseconds."""

    def __cinit__(self):
        memset(self.counts, 0, sizeof(self.counts))
        self.count = 0
        self.total_ns = 0
        self.max_ns = 0

    cdef void add(self, uint64_t value_ns) noexcept nogil:
        # Not `+=`: the debug build's None check of it would need the GIL.
        self.counts[bucket_of(value_ns)] = self.counts[bucket_of(value_ns)] + 1
        self.count = self.count + 1
        self.total_ns = self.total_ns + value_ns
        if value_ns > self.max_ns:
            self.max_ns = value_ns

    def record(self, uint64_t value_ns):
        """Count one duration."""
        self.add(value_ns)

    def percentile(self, double percent):
        """The smallest recorded duration, in ns and to within 0.8 % above, that `percent` % of all do not exceed.

        0 where nothing was recorded. ValueError unless 0 <= percent <= 100.
        """
        cdef uint64_t wanted
        cdef uint64_t seen = 0
        cdef Py_ssize_t bucket
        if not 0 <= percent <= 100:
            raise ValueError(f"percent is between 0 and 100, not {percent}")
        wanted = <uint64_t>(percent / 100 * self.count + 0.5)
        if wanted < 1:
            wanted = 1
        for bucket in range(BUCKETS):
            seen += self.counts[bucket]
            if seen >= wanted:
                return min(bucket_top(bucket), self.max_ns)
        return 0

    def summary_us(self):
        """The usual percentiles in microseconds: keys p50, p90, p99, p999, mean and max."""
        return {
            "p50": self.percentile(50) / 1000,
            "p90": self.percentile(90) / 1000,
            "p99": self.percentile(99) / 1000,
            "p999": self.percentile(99.9) / 1000,
            "mean": self.total_ns / self.count / 1000 if self.count else 0.0,
            "max": self.max_ns / 1000.0,
        }

    def curve_us(self):
        """(percentile, µs) as HdrHistogram plots it: 0, 50, 75, 87.5, … halfway to 100 each time, and 100 itself."""
        cdef double left = 100
        points = [(0.0, self.percentile(0) / 1000)]
        while left / 100 * self.count > 1:
            left /= 2
            points.append((100 - left, self.percentile(100 - left) / 1000))
        return [*points, (100.0, self.max_ns / 1000.0)]

    def merge(self, Histogram other not None):
        """Count what the other one counted, too."""
        cdef Py_ssize_t bucket
        for bucket in range(BUCKETS):
            self.counts[bucket] += other.counts[bucket]
        self.count += other.count
        self.total_ns += other.total_ns
        self.max_ns = max(self.max_ns, other.max_ns)

    def __len__(self):
        return self.count
