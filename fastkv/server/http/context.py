"""What every handler is given."""

from __future__ import annotations

from typing import NamedTuple

from fastkv.config import Limits
from fastkv.server.service import Service


class Context(NamedTuple):
    """The node behind this face, and the limits it keeps."""

    service: Service
    limits: Limits
