"""What an operator asks of the cluster: other members, another leader. On any node; the leader carries it out.

Requests and answers are JSON objects, because they are rare and people read them:

| request | done when |
|---|---|
| `{"do": "members"}` | at once |
| `{"do": "add", "id", "raft", "http", "vote", "replaces"}` | the learner is committed; its promotion comes later |
| `{"do": "promote", "id"}`, `{"do": "remove", "id"}` | the final configuration is committed |
| `{"do": "update", "id", "raft", "http"}` | committed |
| `{"do": "transfer", "to"}` | another node leads |

An answer's status is OK, CHANGE_REFUSED (nothing has changed), INVALID_REQUEST, NO_LEADER (nothing was done), or
OUTCOME_UNKNOWN, where leadership or a link was lost before the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from fastkv._core.codes import Opcode, Status
from fastkv._core.frames import encode_frame
from fastkv.config import NODE_ID, NODE_ID_ALLOWED, parse_host_port
from fastkv.node.ports import NodeSettings, Transport
from fastkv.raft import (
    LEADER,
    AddMember,
    ChangeRefused,
    Member,
    NotLeader,
    Promote,
    Raft,
    Readdress,
    Remove,
)
from fastkv.raft.membership import Change, plan

Request = dict[str, Any]
DeliverAdmin = Callable[[int, dict[str, Any]], None]


@dataclass(slots=True)
class _Waiting:
    """A change in this leader's log, or a transfer (`index` 0) that it has begun."""

    index: int
    deadline: int
    deliver: DeliverAdmin


@dataclass(slots=True)
class _Considered:
    """A change that is asked for. Until `due` the members that it counts on have time to be heard from."""

    change: Change
    asked: int
    due: int
    deliver: DeliverAdmin


@dataclass(slots=True)
class _Forwarded:
    request: Request
    leader: str
    deadline: int
    deliver: DeliverAdmin


class Admin:
    """The requests that are not answered yet."""

    def __init__(self, settings: NodeSettings, raft: Raft, transport: Transport) -> None:
        self._settings = settings
        self._raft = raft
        self._transport = transport
        self._considered: list[_Considered] = []
        self._waiting: list[_Waiting] = []
        self._forwarded: dict[int, _Forwarded] = {}
        self._last_id = raft.rng.getrandbits(62)      # an answer to a former life is nobody's

    # -- requests ----------------------------------------------------------------------------------------------------

    def ask(self, request: Request, deliver: DeliverAdmin, now: int) -> None:
        """A request to this node."""
        raft = self._raft
        if raft.role == LEADER:
            self._carry_out(request, deliver, now)
            return
        self._last_id += 1
        frame = encode_frame(Opcode.ADMIN, 0, 0, self._last_id, orjson.dumps(request))
        if not raft.leader or not self._transport.send(raft.leader, frame):
            deliver(Status.NO_LEADER, {"error": "there is no leader to ask; nothing was done"})
            return
        deadline = now + self._settings.request_timeout_ticks
        self._forwarded[self._last_id] = _Forwarded(request, raft.leader, deadline, deliver)

    def take(self, node_id: str, request_id: int, body: bytes, now: int) -> None:
        """Another node asks us as the leader. ValueError where the body is no request."""

        def deliver(status: int, answer: dict[str, Any]) -> None:
            frame = encode_frame(Opcode.ADMIN_REPLY, 0, status, request_id, orjson.dumps(answer))
            self._transport.send(node_id, frame)

        request = orjson.loads(body)
        if not isinstance(request, dict):
            raise ValueError("an ADMIN body is a JSON object")
        if self._raft.role == LEADER:
            self._carry_out(request, deliver, now)
        else:
            deliver(Status.NO_LEADER, {"error": "the node asked does not lead any more; nothing was done"})

    def answered(self, node_id: str, request_id: int, status: int, body: bytes) -> None:
        """The leader's answer. ValueError where the body is none; late ones are ignored."""
        forwarded = self._forwarded.get(request_id)
        if forwarded is None or forwarded.leader != node_id:
            return
        answer = orjson.loads(body)
        if not isinstance(answer, dict):
            raise ValueError("an ADMIN_REPLY body is a JSON object")
        del self._forwarded[request_id]
        forwarded.deliver(status, answer)

    # -- on the leader -----------------------------------------------------------------------------------------------

    def _carry_out(self, request: Request, deliver: DeliverAdmin, now: int) -> None:
        try:
            if request.get("do") == "members":
                deliver(Status.OK, {"members": self.members()})
            elif request.get("do") == "transfer":
                self._raft.transfer(_text(request, "to"))
                self._waiting.append(_Waiting(0, now + self._settings.request_timeout_ticks, deliver))
            else:
                self._consider(change_of(request), deliver, now)
        except ChangeRefused as refused:
            deliver(Status.CHANGE_REFUSED, {"error": str(refused)})
        except ValueError as error:
            deliver(Status.INVALID_REQUEST, {"error": str(error)})

    def _consider(self, change: Change, deliver: DeliverAdmin, now: int) -> None:
        """Two heartbeats show who is there now; one who died a moment ago must not be what the change waits for."""
        raft = self._raft
        plan(raft.membership, change)       # what makes no sense is refused at once
        others = any(voter != raft.node_id for voter in raft.membership.voters)
        patience = 2 * raft.config.heartbeat_ticks if others else 0
        self._considered.append(_Considered(change, raft.ticks, raft.ticks + patience, deliver))
        self._propose(now)

    def _propose(self, now: int) -> None:
        """Begin the changes whose time has come."""
        raft = self._raft
        due = [considered for considered in self._considered if raft.ticks >= considered.due]
        for one in due:
            self._considered.remove(one)
            try:
                index = raft.change(one.change, one.asked)
            except NotLeader:
                one.deliver(Status.NO_LEADER, {"error": "leadership was lost before anything was done"})
            except ChangeRefused as refused:
                one.deliver(Status.CHANGE_REFUSED, {"error": str(refused)})
            else:
                self._waiting.append(_Waiting(index, now + self._settings.request_timeout_ticks, one.deliver))

    @property
    def considers(self) -> bool:
        """Whether a change is about to be proposed: nothing else is to come in between, or it would be refused."""
        return bool(self._considered)

    def members(self) -> list[dict[str, Any]]:
        """Everybody in the membership in force; `match` is what the leader knows to be on their disks."""
        raft, membership = self._raft, self._raft.membership
        described = []
        for member in membership.members:
            voter, progress = member.node_id in membership.voters, raft.progress.get(member.node_id)
            leaving = not voter and member.node_id in membership.outgoing
            match = raft.log.durable_index if member.node_id == raft.node_id else progress.match if progress else None
            described.append(
                {
                    "id": member.node_id,
                    "raft": member.raft,
                    "http": member.http,
                    "role": "voter" if voter else "leaving" if leaving else "learner",
                    "promote": member.promote,
                    "match": match,
                    "is_leader": member.node_id == raft.leader,
                }
            )
        return described

    def progressed(self) -> None:
        """Entries were applied, or leadership has moved: answer what is done."""
        raft = self._raft
        if not self._waiting:
            return
        settled = raft.history.index <= raft.applied_index and not raft.membership.outgoing
        still = []
        for waiting in self._waiting:
            if waiting.index and settled and waiting.index <= raft.applied_index:
                waiting.deliver(Status.OK, {"members": self.members()})
            elif not waiting.index and raft.leader not in ("", raft.node_id):
                waiting.deliver(Status.OK, {"leader": raft.leader, "members": self.members()})
            elif not waiting.index and raft.role == LEADER and not raft.transferee:
                waiting.deliver(
                    Status.CHANGE_REFUSED, {"error": f"nobody took over in time; {raft.node_id} goes on leading"}
                )
            elif waiting.index and raft.role != LEADER:
                lost = "leadership was lost before the change was committed"
                waiting.deliver(Status.OUTCOME_UNKNOWN, {"error": lost})
            else:
                still.append(waiting)
        self._waiting = still

    # -- when nobody answers -----------------------------------------------------------------------------------------

    def peer_lost(self, node_id: str) -> None:
        """The link to a node broke: its answers may not come."""
        self._fail(lambda forwarded: forwarded.leader == node_id)

    def removed(self) -> None:
        """This node is a member no more. The leader hangs up on it, so this is the answer to whoever asked for that."""
        for request_id, forwarded in list(self._forwarded.items()):
            if (forwarded.request.get("do"), forwarded.request.get("id")) == ("remove", self._settings.node_id):
                del self._forwarded[request_id]
                gone = self._settings.node_id
                left = [member for member in self.members() if member["id"] != gone]
                forwarded.deliver(Status.OK, {"members": left})

    def expire(self, now: int) -> None:
        """Called each tick."""
        self._propose(now)
        self._fail(lambda forwarded: forwarded.deadline <= now)
        for waiting in [waiting for waiting in self._waiting if waiting.deadline <= now]:
            self._waiting.remove(waiting)
            waiting.deliver(Status.OUTCOME_UNKNOWN, {"error": "the change was not committed in time"})
        self.progressed()

    def end(self) -> None:
        """The node stops."""
        self._fail(lambda forwarded: True)
        considered, self._considered = self._considered, []
        for one in considered:
            one.deliver(Status.NO_LEADER, {"error": "the node stops; nothing was done"})
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            change.deliver(Status.OUTCOME_UNKNOWN, {"error": "the node stops"})

    def _fail(self, lost: Callable[[_Forwarded], bool]) -> None:
        for request_id in [key for key, forwarded in self._forwarded.items() if lost(forwarded)]:
            self._forwarded.pop(request_id).deliver(
                Status.OUTCOME_UNKNOWN, {"error": "no answer from the leader; look at the members before trying again"}
            )


def change_of(request: Request) -> Change:
    """The change that a request asks for. ValueError where it makes no sense."""
    what, node_id = request.get("do"), _text(request, "id")
    if not node_id:
        raise ValueError('"id" is missing')
    if what == "add":
        if not NODE_ID.fullmatch(node_id):
            raise ValueError(f'"id" is {NODE_ID_ALLOWED}')
        raft, http = _address(request, "raft"), _address(request, "http")
        if not raft:
            raise ValueError('"raft" is missing: the host:port of the raw-TCP port')
        vote = request.get("vote", True)
        if not isinstance(vote, bool):
            raise ValueError('"vote" is true or false')
        return AddMember(Member(node_id, raft, http, promote=vote, replaces=_text(request, "replaces")))
    if what == "promote":
        return Promote(node_id)
    if what == "remove":
        return Remove(node_id)
    if what == "update":
        moved = Readdress(node_id, _address(request, "raft"), _address(request, "http"))
        if not (moved.raft or moved.http):
            raise ValueError('"raft" and "http" are missing: one of them, or both, as host:port')
        return moved
    raise ValueError('"do" is members, add, promote, remove, update or transfer')


def _address(request: Request, name: str) -> str:
    """An address that can be one; empty where it is not given. Every member keeps what is let in here, and dials it."""
    text = _text(request, name)
    if text and parse_host_port(text) is None:
        raise ValueError(f'"{name}" is host:port or [address]:port, not {text[:64]!r}')
    return text


def _text(request: Request, name: str) -> str:
    text = request.get(name, "")
    if not isinstance(text, str):
        raise ValueError(f'"{name}" is a text')
    return text
