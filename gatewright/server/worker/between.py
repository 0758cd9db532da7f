"""What a worker's service stands between: the drivers of its connections, and the way to the supervisor."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol

from gatewright.runtime.chain import Chain
from gatewright.runtime.confs import Conf
from gatewright.runtime.strands import Strand

__all__ = ["Driver", "Uplink"]


class Driver(Protocol):
    """A connection, whatever it speaks."""

    @property
    def is_awaited(self) -> bool:
        """The peer is still at work on what it was told by a call that is over, and fails if it can't say so."""

    def end_if_stalled(self, now: float, limit: float) -> None:
        """End the connection if it has hung for `limit` seconds."""

    def close_if_idle(self) -> None:
        """Close the connection unless something is under way on it."""

    def give_back(self) -> bool:
        """Let another worker have the connection, if that's possible now."""

    def abort(self) -> None:
        """Close the connection now."""


class Uplink(Protocol):
    """A worker's way to its supervisor, and through it to the other workers."""

    stopped: bool
    """The supervisor wants an end, or is gone."""

    @property
    def lookups(self) -> int:
        """How often a token was asked for that another worker may have given out."""

    @property
    def misses(self) -> int:
        """How often there was none."""

    @property
    def unsettled(self) -> bool:
        """Connections are on their way in or out."""

    def prepare(self, key: str, conf: Conf, answer: Callable[[int | None], None]) -> None:
        """Get a token for a configuration that is valid in all workers; `None` if none can be had."""

    def lookup(self, token: int, strand: Strand) -> Chain | None:
        """The chain of a token that isn't known here, or `None` if nobody knows it. To be called in a strand."""

    def forget(self, token: int) -> None:
        """Drop a configuration, here and in all other workers."""

    def give_back(self, driver: Driver, connection: socket.socket) -> None:
        """Hand a connection over, to be another worker's."""

    def connection_succeeds(self, driver: Driver, successor: Driver) -> None:
        """A connection has another driver."""

    def connection_ended(self, driver: Driver) -> None:
        """A connection has gone."""
