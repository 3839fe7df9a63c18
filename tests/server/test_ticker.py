"""Ticks are counted, none is lost, and nothing spins between them."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import uvloop

from fastkv.server.ticker import Ticker


@dataclass(order=True)
class Timer:
    due_ms: int
    callback: Callable[[], None] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """As uvloop counts: in whole milliseconds, timers and all."""

    def __init__(self) -> None:
        self.now_ms = 1_000
        self.timers: list[Timer] = []
        self.rung = 0

    def time(self) -> float:
        return self.now_ms / 1000

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(self.now_ms + round(delay_s * 1000), callback)
        heapq.heappush(self.timers, timer)
        return timer

    def run(self, for_ms: int) -> None:
        for _ in range(for_ms):
            self.now_ms += 1
            for _ in range(100):        # a timer that is due again at once would never let the clock move
                if not self.timers or self.timers[0].due_ms > self.now_ms:
                    break
                timer = heapq.heappop(self.timers)
                if not timer.cancelled:
                    self.rung += 1
                    timer.callback()

    def pause(self, for_ms: int) -> None:
        self.now_ms += for_ms


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    made = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: made)
    return made


@pytest.mark.parametrize("tick_ms", [0.4, 1, 2.5, 5, 7.3, 20])
def test_as_many_ticks_as_time_has_passed(loop: Loop, tick_ms: float) -> None:
    counted: list[int] = []
    ticker = Ticker(tick_ms / 1000, counted.append)
    ticker.start()
    loop.run(2_000)
    assert abs(sum(counted) - 2_000 / tick_ms) <= max(1, 1 / tick_ms) + 1
    assert 0 not in counted


@pytest.mark.parametrize("tick_ms", [0.4, 1, 2.5, 5, 7.3, 20])
def test_it_wakes_up_only_where_a_tick_is_due(loop: Loop, tick_ms: float) -> None:
    ticker = Ticker(tick_ms / 1000, lambda passed: None)
    ticker.start()
    loop.run(2_000)
    assert loop.rung <= 2_000 / max(tick_ms, 1) + 2


def test_after_a_pause_all_of_it_is_counted_at_once(loop: Loop) -> None:
    counted: list[int] = []
    ticker = Ticker(0.005, counted.append)
    ticker.start()
    loop.run(50)
    loop.pause(1_000)
    loop.run(50)
    assert max(counted) >= 200
    assert sum(counted) in (219, 220)


def test_no_tick_comes_after_it_was_stopped(loop: Loop) -> None:
    counted: list[int] = []
    ticker = Ticker(0.005, counted.append)
    ticker.start()
    loop.run(20)
    ticker.stop()
    before = sum(counted)
    loop.run(100)
    assert sum(counted) == before


def test_it_counts_by_a_real_loop() -> None:
    async def ten_ticks() -> tuple[int, float]:
        came = asyncio.Event()
        counted: list[int] = []

        def note(passed: int) -> None:
            counted.append(passed)
            if sum(counted) >= 10:
                came.set()

        loop = asyncio.get_running_loop()
        began = loop.time()
        ticker = Ticker(0.005, note)
        ticker.start()
        async with asyncio.timeout(30):
            await came.wait()
        ticker.stop()
        return sum(counted), loop.time() - began

    counted, took_s = uvloop.run(ten_ticks())
    assert counted <= took_s / 0.005 + 1
