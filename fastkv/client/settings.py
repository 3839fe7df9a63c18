"""What a client is told once, and every part of it keeps to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """The limits of a client, and how it introduces itself."""

    timeout_s: float = 5.0
    """How long a request may take, with all its tries, where the call does not say."""
    connect_timeout_s: float = 1.0
    """How long one node may take to accept a connection and answer its HELLO."""
    max_in_flight: int = 1024
    """Requests under way at once; further ones wait for their turn."""
    ping_after_s: float = 1.0
    """A node silent for so long while answers are due is asked for a sign of life."""
    silence_limit_s: float = 3.0
    """A node silent for so long while answers are due counts as gone, whatever TCP says."""
    answer_limit_s: float = 0.75
    """A node that answers no request for so long is asked no more where others are known; see `patience`."""
    cluster: str = ""
    """The cluster's name, so that no other is written to by mistake; empty for any."""
    credentials: bytes = b""
    follow_leader: bool = True
    """Whether to move to the leader; False stays with the endpoints, whose followers forward."""

    def __post_init__(self) -> None:
        for name in ("timeout_s", "connect_timeout_s", "max_in_flight", "ping_after_s", "answer_limit_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is above 0, not {getattr(self, name)!r}")
        if self.silence_limit_s <= self.ping_after_s:
            raise ValueError("silence_limit_s is above ping_after_s, so that a PING has time to be answered")
