"""Runs one node: joins what `assembly` makes of its data directory with sockets, and turns the loop.

The event loop runs everything but three things that may wait for a disk: the WAL writer (a compiled thread without the
GIL), the preparation of WAL segments, and checkpoints. A tick never waits for any of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvloop

from fastkv._core.codes import Status
from fastkv._core.connection import Role
from fastkv.config import NodeConfig, is_loopback
from fastkv.errors import ConfigError, FastKVError
from fastkv.logs import set_node_context, setup_logging
from fastkv.node import Addresses, Transport
from fastkv.raft import LEADER
from fastkv.server import descriptors, service_manager
from fastkv.server.assembly import TICKS_A_HEARTBEAT, Assembly, tick_s
from fastkv.server.backup import BackupServer
from fastkv.server.disk_space import DiskSpace
from fastkv.server.http import HttpServer
from fastkv.server.local_service import LocalService
from fastkv.server.metrics import (
    BATCH_BOUNDS,
    CHECKPOINT_BOUNDS_S,
    DISK_BOUNDS_S,
    Distribution,
    Figures,
    NodeMetrics,
    RawRequests,
    Requests,
)
from fastkv.server.overview import STATE_NAMES, Overview
from fastkv.server.peer_link import PeerLinks
from fastkv.server.tcp import RawServer
from fastkv.server.ticker import Ticker
from fastkv.storage.archive import LogArchive
from fastkv.storage.directory import DataDirectory
from fastkv.version import __version__

if TYPE_CHECKING:
    from fastkv.server.tracing import Tracing

log = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_BROKEN = 70
"""The node stopped itself: an invariant was broken, or a disk did not keep what it was given."""


def run(config: NodeConfig) -> int:
    """Serve until SIGTERM or SIGINT. Returns the process's exit status."""
    setup_logging(config.logging, config.node_id)
    connections = descriptors.provide(config.limits.connections)
    config = dataclasses.replace(config, limits=dataclasses.replace(config.limits, connections=connections))
    try:
        return uvloop.run(_serve(config))
    except FastKVError as error:
        log.critical("%s", error, extra={"code": error.code})
    except OSError as error:
        log.critical("cannot start: %s", error)
    return EXIT_FAILED


async def _serve(config: NodeConfig) -> int:
    with DataDirectory.open(
        config.data_dir, cluster=config.cluster.name, node_id=config.node_id
    ) as directory:
        runtime = Runtime(config, directory)
        try:
            await runtime.start()
            service_manager.notify(service_manager.READY, "STATUS=serving")
            status = await runtime.stopped
            service_manager.notify(service_manager.STOPPING, "STATUS=handing over")
            await runtime.leave()
            return status
        finally:
            await runtime.close()


def _traced(config: NodeConfig, links: PeerLinks) -> tuple[Tracing, Transport]:
    """Tracing, and links that take part in it. ConfigError where fastkv[otel] is not installed."""
    try:
        from fastkv.server.tracing import TracedLinks, Tracing, otlp_provider
    except ImportError as error:
        raise ConfigError(f"tracing.enabled needs more than there is: pip install 'fastkv[otel]' ({error})") from None
    tracing = Tracing(otlp_provider(config.node_id, config.cluster.name))
    return tracing, TracedLinks(links, tracing)


class Runtime:
    """One node with its loop-side machinery."""

    def __init__(self, config: NodeConfig, directory: DataDirectory) -> None:
        self.config = config
        self.stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._ticker = Ticker(tick_s(config), self._tick)
        self._turn_scheduled = False
        self._announced: tuple[object, ...] = ()
        self._leadership: tuple[object, ...] = ()
        self._leader_changes = 0
        self._alarm = ""
        self._bootstrapping = False
        self._idle: asyncio.Future[None] | None = None
        """Set once nobody waits for an answer of this node any more."""
        self._open(directory)

    # -- construction ------------------------------------------------------------------------------------------------

    def _open(self, directory: DataDirectory) -> None:
        config = self.config
        self._checkpoint_seconds = Distribution(CHECKPOINT_BOUNDS_S)
        parts = Assembly(
            config,
            directory,
            poster=self._post,
            on_checkpoint=self._checkpoint_seconds.observe,
        )
        self.store, self.machine, self.log, self.archive = parts.store, parts.machine, parts.log, parts.archive
        self.links = PeerLinks(
            config.node_id,
            config.cluster.name,
            disk=directory.disk,
            address=str(config.cluster.nodes[config.node_id].raft),
            restored=directory.restored,
            protocol_version=config.cluster.protocol_version,
            output_limit_bytes=config.limits.peer_frame_bytes,
            on_linked=self._on_linked,
            on_lost=self._on_lost,
            on_refused=self._on_refused,
            cluster_version=lambda: self.node.versions.in_force,
        )
        transport: Transport = self.links
        self._tracing: Tracing | None = None
        if config.tracing.enabled:
            self._tracing, transport = _traced(config, self.links)
        self.node = parts.node(
            transport,
            self._wake,
            on_members=self._members_changed,
            on_removed=self._removed,
            report=lambda: self.overview.report(),
        )
        self.links.set_peers(parts.first_peers(self.node.raft.membership))
        self.service = LocalService(
            config,
            self.node,
            lambda: self.metrics.render(),
            lambda: self.overview.describe(self._figures()),
            parts.archive,
        )
        self.raw = RawServer(
            config,
            self.node,
            self.service,
            BackupServer(self.node, self.store, bytes_per_s=config.backup.max_bytes_per_s),
            disk=directory.disk,
            restored=directory.restored,
            on_peer=self.links.nudge,
            on_broken=self._broken,
            tracing=self._tracing,
        )
        self.http = HttpServer(self.service, config.limits, tracing=self._tracing)
        self._bootstrapping = parts.is_fresh and config.node_id == config.cluster.bootstrap_id
        self._disk = DiskSpace(config.data_dir)
        faces: list[Requests] = [self.http.requests, RawRequests(self.node.outbox.tally)]
        self.metrics = NodeMetrics(self._figures, faces)
        self.overview = Overview(self.node, faces, lambda: self.links.round_trips_s)

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen, dial the peers, and begin to count time."""
        config = self.config
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop, 0)
        await self._listen("raw TCP", self.raw.start, config.server.host, config.server.raft_port)
        await self._listen("HTTP", self.http.start, config.server.host, config.server.http_port)
        self._loop.add_reader(self.log.fileno(), self._on_durable)
        self.links.start()
        self._warn_if_insecure()
        self._bootstrap_if_linked()
        self._ticker.start()
        log.info(
            "fastkv %s serves raw TCP on %s:%d and HTTP on %s:%d, data in %s",
            __version__,
            config.server.host,
            config.server.raft_port,
            config.server.host,
            config.server.http_port,
            config.data_dir,
        )

    async def _listen(self, what: str, start: Callable[..., object], host: str, port: int) -> None:
        try:
            await start(host, port)  # type: ignore[misc]
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(error.errno, f"cannot listen for {what} on {host}:{port}: {reason}") from error

    async def close(self) -> None:
        """Answer whoever waits, close sockets, make the log durable, release the directory's files."""
        self._ticker.stop()
        self.node.stop()
        await self.http.close()
        await self.raw.close()
        await self.links.close()
        self._loop.remove_reader(self.log.fileno())
        self.log.close()
        if self.archive is not None:
            self._offer_to_archive(self.archive)
            self.archive.close()
        self.machine.close()
        self.store.close()
        if self._tracing is not None:
            self._tracing.close()
        log.info("stopped")

    def _bootstrap_if_linked(self) -> None:
        """A new cluster need not wait for an election timeout: one node asks for votes once a majority can hear it."""
        peers = self.node.raft.peers
        linked = sum(self.links.linked(peer) for peer in peers)
        if self._bootstrapping and linked >= (len(peers) + 1) // 2:
            self._bootstrapping = False
            if self.node.raft.term == 0:
                self.node.raft.campaign()
                self._wake()

    def _warn_if_insecure(self) -> None:
        if self.config.security.insecure and not is_loopback(self.config.server.host):
            log.warning(
                "security.insecure is set: everybody who reaches %s can read and write everything, in clear text",
                self.config.server.host,
            )

    def _stop(self, status: int) -> None:
        if not self.stopped.done():
            self.stopped.set_result(status)

    def _members_changed(self, addresses: Addresses) -> None:
        self.links.set_peers(addresses)
        self.raw.drop_removed()

    def _removed(self, text: str) -> None:
        """This node is no member any more: there is nothing left for it to do, and that is no failure."""
        if not self.stopped.done():
            log.warning("stopping: %s. To use this machine again, empty %s and add it", text, self.config.data_dir)
            self._stop(0)

    async def leave(self) -> None:
        """Before a clean stop: hand leadership over and answer what was taken, so that nobody loses anything by it.

        First nobody new comes in. Once another node leads, nothing more is taken from the connections that are there;
        what is under way is answered by the new leader. Then clients are told that the rest was not done.
        """
        self.raw.stop_accepting()
        drained = asyncio.Event()
        self.node.drain(drained.set)
        await drained.wait()
        self.raw.stop_taking()
        await self.http.close()
        self._idle = self._loop.create_future()
        self._wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.limits.request_timeout_ms / 1000):
                await self._idle

    def _broken(self, error: BaseException) -> None:
        """An invariant does not hold, or the disk failed: stop at once, before anything is acknowledged on top."""
        log.critical("stopping: %s", error or type(error).__name__, exc_info=error)
        for handler in logging.getLogger().handlers:
            with contextlib.suppress(OSError):
                handler.flush()
        # Not a clean shutdown: threads may hold the failed write, and nothing more may reach the disk or a client.
        os._exit(EXIT_BROKEN)

    def _post(self, callback: Callable[..., object], *arguments: object) -> None:
        """Have a thread's callback called on the loop. What it raises is no less serious than in a turn."""

        def call() -> None:
            try:
                callback(*arguments)
            except Exception as error:
                self._broken(error)

        self._loop.call_soon_threadsafe(call)

    # -- the turn of the loop ----------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_scheduled = False
        try:
            self.node.pump()
        except Exception as error:
            self._broken(error)
        raft = self.node.raft
        if (raft.role, raft.term, raft.leader) != self._announced:
            self._announce()
        if self.node.alarm != self._alarm:
            self._announce_alarm()
        if self._idle is not None and not self.node.busy and not self._idle.done():
            self._idle.set_result(None)

    def _tick(self, passed: int) -> None:
        """Have the node count the ticks that have passed.

        After a pause (a stopped process, a suspended machine) a leader counts enough of them to step down when it has
        lost its quorum; a follower counts one heartbeat's worth, because its inbox is full of what arrived meanwhile
        and has to be read before the leader's silence means anything.
        """
        limit = self.node.raft.config.election_ticks * 2 if self.node.raft.role == LEADER else TICKS_A_HEARTBEAT
        try:
            for _ in range(min(passed, limit)):
                self.node.tick()
            if self.archive is not None:
                self._offer_to_archive(self.archive)
        except Exception as error:
            self._broken(error)

    def _offer_to_archive(self, archive: LogArchive) -> None:
        archive.offer(self.log.durable_position, self.node.raft.commit_index)

    def _on_durable(self) -> None:
        try:
            self.log.collect()
            self.node.durable()
        except Exception as error:
            self._broken(error)

    def _on_linked(self, peer: str, disk: int) -> bool:
        if not self.node.peer_linked(peer, disk):
            return False
        self._bootstrap_if_linked()
        return True

    def _on_refused(self, peer: str, status: int, text: str) -> None:
        try:
            self.node.refused_by(peer, status, text)
        except Exception as error:
            self._broken(error)

    def _on_lost(self, peer: str) -> None:
        self.node.peer_lost(peer)

    def _figures(self) -> Figures:
        """What /metrics shows."""
        node, raft = self.node, self.node.raft
        self._disk.refresh()
        return Figures(
            has_leader=bool(raft.leader),
            is_leader=raft.role == LEADER,
            leader_changes=self._leader_changes,
            term=raft.term,
            commit_index=raft.commit_index,
            applied_index=raft.applied_index,
            proposals_committed=raft.commit_index,
            proposals_applied=raft.applied_index,
            proposals_failed=node.proposals_failed,
            proposals_pending=node.proposals_pending,
            keys=self.machine.key_count,
            store_bytes=self.store.bytes_on_disk,
            log_bytes=self.log.bytes_on_disk,
            disk_bytes=self._disk.total_bytes,
            disk_free_bytes=self._disk.free_bytes,
            connections={
                "client": self.raw.count(Role.CLIENT),
                "peer": self.raw.count(Role.PEER),
                "http": len(self.http.connections),
            },
            fsync_seconds=Distribution(DISK_BOUNDS_S, *self.log.fsync_seconds),
            checkpoint_seconds=self._checkpoint_seconds,
            batch_entries=Distribution(BATCH_BOUNDS, *self.log.batch_entries),
            peer_round_trip_seconds=self.links.round_trips_s,
            snapshots_open=len(self.machine.held),
            snapshots_installed=node.snapshots_installed,
            snapshot_bytes_sent=node.snapshot_bytes[0],
            snapshot_bytes_received=node.snapshot_bytes[1],
            has_alarm=bool(node.alarm),
            refuses_writes=node.ingress.refuse_writes != Status.OK,
        )

    def _announce(self) -> None:
        raft = self.node.raft
        self._announced = (raft.role, raft.term, raft.leader)
        set_node_context(term=raft.term, role=STATE_NAMES[raft.role])
        if raft.leader and (raft.term, raft.leader) != self._leadership:
            self._leadership = (raft.term, raft.leader)
            self._leader_changes += 1
        self.overview.led_by(raft.leader, raft.term)
        log.info("%s in term %d, leader %s", STATE_NAMES[raft.role], raft.term, raft.leader or "not known")

    def _announce_alarm(self) -> None:
        self._alarm = self.node.alarm
        if self._alarm:
            log.critical("serving nothing from now on: %s", self._alarm)
        else:
            log.warning("serving again: the state was replaced by a snapshot")
