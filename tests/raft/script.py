"""Golden scripts: a scenario of the consensus core as text, with everything that came of it.

A line that begins with `>` is a command, the lines below it are what happened. `python -m tests.raft.script` writes
the outcome of every script anew, to be read before it is committed.

| command | |
|---|---|
| `cluster a b c [setting=value …]` | begin, with settings of `RaftConfig` (`no` and `yes` for flags) |
| `log a 1 1 4 [term=n] [commit=n]` | member a starts with entries of these terms on its disk |
| `restart a` | start again from the disk, long ago; what was under way to it is lost |
| `crash a n` | start again; of what was under way, the first n records are on the disk |
| `campaign a`, `tick a n`, `propose a key …`, `read a context`, `unreachable a b` | inputs of `Raft` |
| `join d` | a new machine, which knows nobody |
| `add a d [vote] [replaces=b]`, `promote a d`, `remove a d` | ask a for a change of members |
| `transfer a [b]`, `step_down a` | leadership moves |
| `cut a n` | a has a checkpoint at what it has applied, and cuts its log up to n |
| `restore a b` | a installs a snapshot of b's state |
| `sync a [n]` | the disk of a has its first n writes (or all) |
| `deliver [from=a] [to=b] [kind=Append]` | deliver what is on the wire; answers stay there |
| `drop …`, `duplicate …` | lose messages, or put a copy behind the others |
| `keep …`, `replay` | take messages aside, and put them on the wire again |
| `calm [without=c]` | deliver and sync until nothing moves; says only who ended where |
| `state` | every member's role, term, vote, commit index and log |
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from fastkv.log_types import HardState, Segment
from fastkv.raft import (
    AddMember,
    ChangeRefused,
    Member,
    Membership,
    Message,
    NotLeader,
    Overloaded,
    Promote,
    Raft,
    Ready,
    Remove,
    Transferring,
)
from fastkv.raft.membership import Change
from fastkv.raft.messages import KIND_NAMES
from fastkv.raft.types import ROLE_NAMES
from tests.raft.harness import Cluster, Disk, batch, log_of

SCRIPTS = Path(__file__).parent / "scripts"


def show(segments: list[Segment]) -> str:
    return " ".join(f"{s.first_index}..{s.last_index}@{s.term}" for s in segments)


def show_members(membership: Membership) -> str:
    """Voters, those on their way out, and learners."""
    parts = [f"voters {' '.join(membership.voters)}"]
    if membership.outgoing:
        parts.append(f"outgoing {' '.join(membership.outgoing)}")
    if membership.learners:
        parts.append(f"learners {' '.join(membership.learners)}")
    return ", ".join(parts)


def events_of(name: str, ready: Ready) -> list[str]:
    """What one Ready says, a line a decision."""
    lines = []
    if ready.leadership is not None:
        role, leader, term = ready.leadership
        follows = f", follows {leader}" if leader not in ("", name) else ""
        lines.append(f"{name} is {ROLE_NAMES[role]} in term {term}{follows}")
    if ready.membership is not None:
        lines.append(f"{name} has {show_members(ready.membership)}")
    if ready.snapshot_wanted:
        lines.append(f"{name} needs a snapshot of {ready.snapshot_wanted} or later")
    if ready.hard_state is not None:
        vote = ready.hard_state.vote or "nobody"
        lines.append(f"{name} writes term {ready.hard_state.term}, vote {vote}")
    if ready.segments:
        lines.append(f"{name} writes entries {show(ready.segments)}")
    lines += [f"{name} sends {message!r}" for message in ready.send_now]
    lines += [f"{name} sends once durable {message!r}" for message in ready.send_after_persist]
    if ready.committed:
        lines.append(f"{name} applies {show(ready.committed)}")
    lines += [f"{name} may read {state.context} at {state.index}" for state in ready.reads]
    lines += [f"{name} cannot read {context}" for context in ready.reads_failed]
    return lines


class Script:
    """Runs commands, and tells what came of each."""

    def __init__(self) -> None:
        self.cluster = Cluster("a")
        self.kept: list[Message] = []

    def run(self, line: str) -> list[str]:
        """The events that one command caused, in order."""
        verb, *words = line.split()
        command: Callable[..., list[str] | None] = getattr(self, f"do_{verb}")
        said = command(*words) or []
        events = []
        for name in self.cluster.names:
            for ready in self.cluster.readies[name]:
                events += events_of(name, ready)
            self.cluster.readies[name] = []
        return [*said, *(events if verb != "calm" else [])] or ["nothing"]

    def chosen(self, filters: tuple[str, ...]) -> Callable[[Message], bool]:
        wanted = dict(word.split("=", 1) for word in filters)
        return lambda m: (
            wanted.get("from", m.frm) == m.frm
            and wanted.get("to", m.to) == m.to
            and wanted.get("kind", KIND_NAMES[m.kind]) == KIND_NAMES[m.kind]
        )

    def do_cluster(self, *words: str) -> list[str]:
        names = [word for word in words if "=" not in word]
        settings: dict[str, int | bool] = {}
        for word in words:
            if "=" in word:
                name, value = word.split("=")
                settings[name] = value == "yes" if value in ("yes", "no") else int(value)
        self.cluster = Cluster(*names, **settings)
        return ["ok"]

    def do_log(self, name: str, *words: str) -> list[str]:
        terms = [int(word) for word in words if "=" not in word]
        named = {word.split("=")[0]: int(word.split("=")[1]) for word in words if "=" in word}
        term = named.get("term", max(terms, default=0))
        disk = Disk(HardState(term, "", named.get("commit", 0)), log_of(*terms))
        disk.membership = self.cluster.disks[name].membership
        self.cluster.disks[name] = disk
        self.cluster.start(name)
        self.wait_out(name)
        return ["ok"]

    def do_restart(self, name: str) -> None:
        self.cluster.start(name)
        self.wait_out(name)
        self.cluster.settle(name)

    def wait_out(self, name: str) -> None:
        """An election timeout passes in which nobody says anything: it votes again."""
        raft = self.cluster.rafts[name]
        raft.since_leader = raft.config.election_ticks

    def do_crash(self, name: str, survivors: str) -> None:
        self.cluster.disks[name].crash(int(survivors))
        self.do_restart(name)

    def do_campaign(self, name: str) -> None:
        self.cluster.rafts[name].campaign()
        self.cluster.settle(name)

    def do_tick(self, name: str, count: str) -> None:
        self.cluster.ticks(name, int(count))

    def do_propose(self, name: str, *keys: str) -> list[str]:
        try:
            first, term = self.cluster.rafts[name].propose(batch(*keys))
        except NotLeader:
            return ["refused: not the leader"]
        except Overloaded as error:
            return [f"refused: {error}"]
        except Transferring as error:
            return [f"refused: leadership is going to {error}"]
        self.cluster.settle(name)
        return [f"{name} appends {first}..{first + len(keys) - 1}@{term}"]

    def do_read(self, name: str, context: str) -> None:
        self.cluster.rafts[name].read(int(context))
        self.cluster.settle(name)

    def do_join(self, name: str) -> None:
        self.cluster.join(name)

    def do_add(self, name: str, new: str, *words: str) -> list[str]:
        replaces = "".join(word.partition("=")[2] for word in words if word.startswith("replaces="))
        return self.change(name, AddMember(Member(new, promote="vote" in words, replaces=replaces)))

    def do_promote(self, name: str, learner: str) -> list[str]:
        return self.change(name, Promote(learner))

    def do_remove(self, name: str, member: str) -> list[str]:
        return self.change(name, Remove(member))

    def change(self, name: str, change: Change) -> list[str]:
        return self.asked(name, lambda raft: raft.change(change))

    def do_transfer(self, name: str, to: str = "") -> list[str]:
        return self.asked(name, lambda raft: raft.transfer(to))

    def asked(self, name: str, ask: Callable[[Raft], object]) -> list[str]:
        try:
            ask(self.cluster.rafts[name])
        except NotLeader:
            return ["refused: not the leader"]
        except ChangeRefused as error:
            return [f"refused: {error}"]
        self.cluster.settle(name)
        return []

    def do_step_down(self, name: str) -> None:
        self.cluster.rafts[name].step_down()
        self.cluster.settle(name)

    def do_cut(self, name: str, index: str) -> None:
        raft, disk = self.cluster.rafts[name], self.cluster.disks[name]
        disk.cut(int(index), raft.log.term(int(index)) or 0)
        raft.log.cut(disk.base_index, disk.base_term)

    def do_restore(self, name: str, source: str) -> list[str]:
        return [f"{name} restores entry {self.cluster.restore(name, source)}"]

    def do_unreachable(self, name: str, peer: str) -> None:
        self.cluster.rafts[name].unreachable(peer)
        self.cluster.settle(name)

    def do_sync(self, name: str, writes: str = "") -> None:
        self.cluster.sync(name, int(writes) if writes else None)

    def do_deliver(self, *filters: str) -> None:
        self.cluster.deliver(self.chosen(filters))

    def do_drop(self, *filters: str) -> list[str]:
        chosen = self.chosen(filters)
        lost = [message for message in self.cluster.wire if chosen(message)]
        self.cluster.wire = [message for message in self.cluster.wire if not chosen(message)]
        return [f"lost: {message!r}" for message in lost]

    def do_duplicate(self, *filters: str) -> list[str]:
        copies = [message for message in self.cluster.wire if self.chosen(filters)(message)]
        self.cluster.wire += copies
        return [f"twice: {message!r}" for message in copies]

    def do_keep(self, *filters: str) -> list[str]:
        chosen = self.chosen(filters)
        self.kept += [message for message in self.cluster.wire if chosen(message)]
        self.cluster.wire = [message for message in self.cluster.wire if not chosen(message)]
        return [f"kept: {message!r}" for message in self.kept]

    def do_replay(self) -> list[str]:
        self.cluster.wire += self.kept
        self.kept = []
        return ["ok"]

    def do_calm(self, *words: str) -> list[str]:
        without = [word.split("=")[1] for word in words]
        self.cluster.calm(without=without)
        return self.do_state()

    def do_state(self) -> list[str]:
        lines = []
        for name in self.cluster.names:
            raft = self.cluster.rafts[name]
            terms = " ".join(str(raft.log.term(i)) for i in range(raft.log.base_index + 1, raft.log.last_index + 1))
            lines.append(
                f"{name}: {ROLE_NAMES[raft.role]} in term {raft.term}, vote {raft.vote or 'nobody'}, "
                f"commit {raft.commit_index}, log [{terms}]"
            )
        return lines


def replay(text: str) -> str:
    """The script with every command's outcome as it is now. Comments and blank lines stay."""
    script = Script()
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("> "):
            lines.append(line)
            lines += [f"  {event}" for event in script.run(line[2:].partition("#")[0])]
        elif not line.startswith("  "):
            lines.append(line)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write every script's outcome anew."""
    for path in sorted(SCRIPTS.glob("*.txt")):
        before = path.read_text()
        after = replay(before)
        if after != before:
            path.write_text(after)
            print(f"changed: {path.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
