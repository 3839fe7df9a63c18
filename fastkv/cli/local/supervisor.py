"""Nodes in the foreground: their logs on one screen, a word when one ends, and a clean stop of all of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastkv.cli.local.plan import Plan, node_environment
from fastkv.cli.local.probe import PROBE_INTERVAL_S, agreed_leader, fetch_all
from fastkv.cli.output import Exit

STOP_DEADLINE_S = 15.0
CLEAN = (0, -signal.SIGTERM)
"""How a node ends that was told to: by itself, or by the signal where it had not even begun to listen for it."""
LINE_LIMIT_BYTES = 1 << 20

Say = Callable[[str], None]


class Supervisor:
    """Runs the nodes of a plan until it is told to stop.

    `write` takes whole lines of the nodes' logs, `say` what the supervisor itself has to tell.
    """

    def __init__(self, plan: Plan, *, write: Say, say: Say, ready: Callable[[str], None], deadline_s: float) -> None:
        self._plan = plan
        self._write = write
        self._say = say
        self._ready = ready
        self._deadline_s = deadline_s
        self._processes: dict[str, Process] = {}
        self._followers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._killing = asyncio.Event()
        self._news = asyncio.Event()
        """Set by every log line and every end of a node: a moment at which there may be a leader."""

    async def run(self) -> Exit:
        """Start, wait for a leader, follow the logs, stop. Returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled)
        status = Exit.DONE
        try:
            for name in self._plan.nodes:
                await self._start_node(name)
            leader = await self._until_leader()
            if leader is not None:
                self._print(self._ready, leader)
                await self._stopping.wait()
            elif not self._stopping.is_set():
                status = self._explain_no_leader()
        finally:
            clean = await self._stop()
        return status if clean else Exit.FAILED

    def _signalled(self) -> None:
        if self._stopping.is_set():
            self._killing.set()
        self._stopping.set()
        self._news.set()

    # -- one node ----------------------------------------------------------------------------------------------------

    async def _start_node(self, name: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *self._plan.command(name),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            env=node_environment(os.environ),
            process_group=0,  # a Ctrl-C is for the supervisor, which then stops the nodes in good order
        )
        self._processes[name] = process
        self._followers.append(asyncio.create_task(self._follow(name, process), name=f"log of {name}"))

    async def _follow(self, name: str, process: Process) -> None:
        """Pass on what the node logs, until it ends."""
        assert process.stdout is not None
        async for line in _lines(process.stdout):
            self._print(self._write, labelled(name, line))
            self._news.set()
        status = await process.wait()
        self._news.set()
        if not self._stopping.is_set():
            self._tell(f"{name} (process {process.pid}) {ended(status)}. Start it again with:")
            self._tell(f"  {self._plan.command_line(name)}")

    def _tell(self, line: str) -> None:
        self._print(self._say, line)

    def _print(self, show: Say, line: str) -> None:
        """Show a line. When nobody can read any more, the terminal or the pipe being gone, that means to stop."""
        try:
            show(line)
        except OSError:
            self._stopping.set()
            self._news.set()

    def _running(self) -> list[str]:
        return [name for name, process in self._processes.items() if process.returncode is None]

    # -- the cluster -------------------------------------------------------------------------------------------------

    async def _until_leader(self) -> str | None:
        """The leader, or None where the deadline passed, too few nodes are left, or a stop was asked for."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._deadline_s
        while not self._stopping.is_set() and loop.time() < deadline:
            self._news.clear()
            alive = self._running()
            if len(alive) < self._plan.quorum:
                return None
            addresses = {name: self._plan.nodes[name].cluster.nodes[name].http for name in alive}
            leader = agreed_leader(await asyncio.to_thread(fetch_all, addresses))
            if leader is not None:
                return leader
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROBE_INTERVAL_S):
                    await self._news.wait()
        return None

    def _explain_no_leader(self) -> Exit:
        if len(self._running()) < self._plan.quorum:
            self._tell("too few nodes are left for a majority; their last lines above say why")
            return Exit.FAILED
        self._tell(f"no leader within {self._deadline_s:g} s; stopping")
        return Exit.UNREACHABLE

    async def _stop(self) -> bool:
        """SIGTERM, a deadline, SIGKILL. Whether all that ran stopped cleanly."""
        self._stopping.set()
        alive = self._running()
        if alive:
            self._tell(f"stopping {', '.join(alive)}")
        for name in alive:
            _signal(self._processes[name], signal.SIGTERM)
        everyone = asyncio.gather(*self._followers)
        impatient = asyncio.ensure_future(self._killing.wait())
        either: list[asyncio.Future[Any]] = [everyone, impatient]
        await asyncio.wait(either, timeout=STOP_DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
        impatient.cancel()
        late = self._running()
        for name in late:
            self._tell(f"{name} did not stop in time and is killed")
            _signal(self._processes[name], signal.SIGKILL)
        await everyone
        failed = [name for name in alive if name not in late and self._processes[name].returncode not in CLEAN]
        for name in failed:
            self._tell(f"{name} {ended(self._processes[name].returncode or 0)} while it was stopped")
        if alive and not late and not failed:
            self._tell("all nodes stopped")
        return not late and not failed


def _signal(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """The lines of a stream, without their ends; one that is longer than LINE_LIMIT_BYTES is cut into several."""
    rest = b""
    while chunk := await stream.read(1 << 16):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")
        if len(rest) > LINE_LIMIT_BYTES:
            yield rest.decode(errors="replace")
            rest = b""
    if rest:
        yield rest.decode(errors="replace")


def labelled(name: str, line: str) -> str:
    """A node's line with the node's name before it, unless it says so itself: log lines do, tracebacks do not."""
    return line if line.startswith((f"{name} ", "{")) else f"{name} | {line}"


def ended(status: int) -> str:
    """What a process's return code means, in words."""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def supervise(plan: Plan, *, say: Say, ready: Callable[[str], None], deadline_s: float) -> Exit:
    """Run the nodes of a plan in the foreground until Ctrl-C or SIGTERM."""

    def write(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    async def main() -> Exit:
        return await Supervisor(plan, write=write, say=say, ready=ready, deadline_s=deadline_s).run()

    return asyncio.run(main())
