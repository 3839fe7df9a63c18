"""When each alert fires, with what summary, and when it does not: series a minute apart, in promtool's notation."""

from __future__ import annotations

from typing import NamedTuple


class Fires(NamedTuple):
    """At this time the alert fires, for these series only, each with its labels beside `job` and its summary."""

    at: str
    series: dict[str, str]
    summaries: dict[str, str]
    """By the labels as they are written in braces."""


class Quiet(NamedTuple):
    """At this time it does not."""

    at: str
    series: dict[str, str]


def on(name: str, instance: str = "", **labels: str) -> str:
    """A series of the job `fastkv`."""
    known = {"job": "fastkv", **({"instance": instance} if instance else {}), **labels}
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in known.items()) + "}"


def up(*values: str) -> dict[str, str]:
    return {on("up", f"n{number + 1}"): value for number, value in enumerate(values)}


def leaders(*values: str) -> dict[str, str]:
    return {on("fastkv_server_is_leader", f"n{number + 1}"): value for number, value in enumerate(values)}


def disk(free: str, size: str = "100+0x200") -> dict[str, str]:
    return {on("fastkv_disk_free_bytes", "n1"): free, on("fastkv_disk_bytes", "n1"): size}


def syncs(fast: str, slow: str) -> dict[str, str]:
    bucket = "fastkv_wal_fsync_duration_seconds_bucket"
    return {
        on(bucket, "n1", le="0.01"): fast,
        on(bucket, "n1", le="0.25"): slow,
        on(bucket, "n1", le="+Inf"): slow,
    }


def writes(ok: str, failed: str, code: str = "NO_SPACE", op: str = "put") -> dict[str, str]:
    name = "fastkv_requests_total"
    return {on(name, "n1", op=op, code="OK"): ok, on(name, "n1", op=op, code=code): failed}


HEAD = "{instance=n1}"
CASES: dict[str, list[Fires | Quiet]] = {
    "FastkvNodeDown": [
        Fires("5m", up("1+0x9", "1 1 0+0x9", "1+0x9"), {"{instance=n2}": "n2 of fastkv does not answer"}),
        Quiet("5m", up("1+0x9", "1 0 1 0 1 0 1 1 1", "1+0x9")),
        Quiet("5m", {'up{job="other",instance="n1"}': "0+0x9"}),
    ],
    "FastkvNoLeader": [
        Fires("5m", {**up("1+0x9", "1+0x9"), **leaders("0+0x9", "0+0x9")}, {"{}": "fastkv has no leader"}),
        Fires("5m", up("0+0x9", "0+0x9"), {"{}": "fastkv has no leader"}),
        Quiet("5m", {**up("1+0x9", "0+0x9"), **leaders("1+0x9")}),
        Quiet("5m", {**up("1+0x9", "1+0x9"), **leaders("0 0 0 0 0 1 1 1 1", "1 1 1 1 0 0 0 0 0")}),
    ],
    "FastkvNodeWithoutLeader": [
        Fires(
            "5m",
            {on("fastkv_server_has_leader", "n1"): "0+0x9", on("fastkv_server_has_leader", "n2"): "1+0x9"},
            {HEAD: "n1 of fastkv knows no leader"},
        ),
        Quiet("5m", {on("fastkv_server_has_leader", "n1"): "1 1 1 0 1 0 1 1"}),
    ],
    "FastkvTwoLeaders": [
        Fires("5m", leaders("1+0x9", "1+0x9", "0+0x9"), {"{}": "fastkv has 2 nodes that call themselves leader"}),
        Quiet("5m", leaders("1+0x9", "0 0 0 0 1 0 0 0", "0+0x9")),
        Quiet("5m", {**leaders("1+0x9"), 'fastkv_server_is_leader{job="another fastkv",instance="n1"}': "1+0x9"}),
    ],
    "FastkvLeaderFlapping": [
        Fires(
            "20m",
            {on("fastkv_server_leader_changes_total", "n1"): "1+1x30"},
            {"{}": "fastkv has changed its leader 15 times in 15 minutes"},
        ),
        Quiet("20m", {on("fastkv_server_leader_changes_total", "n1"): "1 1 1 2 2 2 2 3 3 3 3 3 4 4 4 4 4 4 4 4 4"}),
    ],
    "FastkvSlowFsync": [
        Fires(
            "15m",
            syncs("0+90x30", "0+100x30"),
            {HEAD: "The disk of n1 is slow: 1 of 100 syncs takes 226ms"},
        ),
        Quiet("15m", syncs("0+100x30", "0+100x30")),
    ],
    "FastkvSlowPeer": [
        Fires(
            "5m",
            {on("fastkv_peer_round_trip_seconds", "n1", peer="n2"): "0.5+0x9",
             on("fastkv_peer_round_trip_seconds", "n1", peer="n3"): "0.001+0x9"},
            {"{instance=n1,peer=n2}": "n2 answers n1 after 500ms"},
        ),
        Quiet("5m", {on("fastkv_peer_round_trip_seconds", "n1", peer="n2"): "0.01 0.9 0.01 0.9 0.01 0.01 0.01"}),
    ],
    "FastkvFollowerLags": [
        Fires(
            "5m",
            {on("fastkv_raft_commit_index", "n1"): "50000+0x9", on("fastkv_raft_commit_index", "n2"): "20000+0x9",
             on("fastkv_raft_applied_index", "n1"): "50000+0x9", on("fastkv_raft_applied_index", "n2"): "20000+0x9"},
            {"{instance=n2}": "n2 is 30000 entries behind fastkv"},
        ),
        Quiet(
            "5m",
            {on("fastkv_raft_commit_index", "n1"): "50000+5000x9",
             on("fastkv_raft_applied_index", "n1"): "50000+5000x9",
             on("fastkv_raft_applied_index", "n2"): "45000+5000x9"},
        ),
    ],
    "FastkvDiskFilling": [
        Fires("20m", disk("10+0x200"), {HEAD: "The disk of n1 is filling: 10% are left"}),
        Fires("80m", disk("100-0.75x200"), {HEAD: "The disk of n1 is filling: 40% are left"}),
        Quiet("80m", disk("100-0.1x200")),
        Quiet("80m", disk("100-0.5x200")),      # fast, but there is a lot
    ],
    "FastkvDiskFull": [
        Fires("5m", disk("2+0x9"), {HEAD: "n1 refuses writes, or is about to"}),
        Fires("5m", {on("fastkv_server_refuses_writes", "n1"): "1+0x9"}, {HEAD: "n1 refuses writes, or is about to"}),
        Quiet("5m", {**disk("5+0x9"), on("fastkv_server_refuses_writes", "n1"): "0 1 0 1 0 0 0"}),
    ],
    "FastkvWritesFail": [
        Fires("20m", writes("0+95x30", "0+5x30"), {"{}": "5% of the writes to fastkv fail"}),
        Fires("20m", writes("0+0x30", "0+5x30", "NO_LEADER", "delete"), {"{}": "100% of the writes to fastkv fail"}),
        Quiet("20m", writes("0+995x30", "0+5x30")),
        Quiet("20m", writes("0+50x30", "0+50x30", "PRECONDITION_FAILED")),     # the client's business
        Quiet("20m", writes("0+0x30", "0+0x30")),
    ],
    "FastkvStateDiffers": [
        Fires(
            "5m",
            {on("fastkv_state_alarm", "n1"): "0 0 1 1 1 1 1", on("fastkv_state_alarm", "n2"): "0+0x9"},
            {HEAD: "The state of n1 differs from the others'"},
        ),
        Quiet("5m", {on("fastkv_state_alarm", "n1"): "0+0x9"}),
    ],
    "FastkvFewFilesLeft": [
        Fires(
            "9m",
            {on("fastkv_process_open_fds", "n1"): "900+0x9", on("fastkv_process_max_fds", "n1"): "1000+0x9"},
            {HEAD: "n1 has 90% of its files open"},
        ),
        Quiet("9m", {on("fastkv_process_open_fds", "n1"): "700+0x9", on("fastkv_process_max_fds", "n1"): "1000+0x9"}),
    ],
}
