from typing import final

@final
class Schedule:
    """`rate` requests a second on average, for `links` connections with room for `depth` each.

    The same `seed` makes the same moments, from `start_ns` of the monotonic clock on. ValueError unless the rate is
    above 0.
    """

    def __new__(cls, rate: float, links: int, depth: int, seed: int, start_ns: int) -> Schedule: ...
    @property
    def due_ns(self) -> int: ...
    def moments(self, count: int) -> list[int]: ...
