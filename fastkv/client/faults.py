"""What can go wrong between a request and its answer, told apart by the one thing that counts: was it sent?

`ConnectionLostError` and `DeadlinePassedError` stay inside the client: `cluster` turns them into what users see.
"""

from __future__ import annotations

from fastkv.errors import NotDone


class ClientClosed(NotDone):
    """The client is closed."""

    code = "CLIENT_CLOSED"


class ConnectionLostError(Exception):
    """The connection ended before the answer came. `sent`: whether the request may have reached the server."""

    def __init__(self, reason: Exception, *, sent: bool) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.sent = sent


class DeadlinePassedError(Exception):
    """The deadline came before the answer. `sent`: whether the request may have reached the server."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__("no answer within the deadline")
        self.sent = sent
