"""What the supervisor has to know of what its workers run."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final, Protocol

from gatewright.server.ipc.guard import Guard
from gatewright.server.ipc.handover import Handover
from gatewright.server.ipc.keep import Region
from gatewright.server.ipc.last_seen import LastSeen
from gatewright.settings import Address, Settings

__all__ = ["RETIRE_MARGIN_SECONDS", "TEARDOWN_SECONDS", "Plan", "StandIn"]

RETIRE_MARGIN_SECONDS: Final = 5.0
"""Beyond the longest deadline of a plugin, for the calls of a worker that retires."""

TEARDOWN_SECONDS: Final = 0.12
"""For plugins at shutdown: what is left of APISIX's one second after draining."""


class StandIn(Protocol):
    """Says no on a connection, in the place of a runner that is gone. It's for one request, then the connection ends.

    What it gives is made so that the gateway does not use the connection again.
    """

    @property
    def patience(self) -> float:
        """Seconds that the gateway may be kept waiting for the next runner, before it's told no."""

    @property
    def relays(self) -> bool:
        """The next runner may ask something before it answers: what both say is passed on as it comes."""

    @property
    def asks_anew(self) -> bool:
        """A gateway whose connection closes asks again on another one: once the next runner is there, that's enough."""

    def refusal(self, data: bytes) -> bytes:
        """What to say to the request that these bytes belong to; empty if it goes on. Raises if it's none."""

    def elsewhere(self) -> socket.socket | None:
        """A connection with a process of the runner's that still has to do with what was asked; it's passed on there.

        It does not block. `None`: there is none.
        """

    def passed_on(self, reply: bytes, new: bytes) -> bytes:
        """What to say if the next runner answers so (its last part is `new`); empty if the answer goes on.

        What is relayed was said already, and this comes after it.
        """


class Plan(Protocol):
    """What to run, as the supervisor sees it; a driver makes one for its gateway."""

    @property
    def settings(self) -> Settings:
        """The effective settings."""

    @property
    def hash_token(self) -> Callable[[bytes, int], int]:
        """Digest of a configuration and attempt to its token."""

    @property
    def last_words(self) -> Callable[[bytes], bytes] | None:
        """Gives what to write on a connection whose worker died.

        Its argument are the first bytes (31 at most) of the request that it owed an answer to. `None`: the connection
        is just closed.
        """

    @property
    def goes_on(self) -> bool:
        """After its last words a connection can be used further."""

    @property
    def begins_anew(self) -> Callable[[bytes], bool] | None:
        """Whether the first bytes that a dead worker has not read begin a call, on a connection without a note.

        `None`: every call is noted, so a connection without a note is idle, and one that is closed lets its request
        pass.
        """

    @property
    def backlog(self) -> int:
        """Connections that may wait to be accepted."""

    @property
    def socket_of(self) -> Callable[[str], Address] | None:
        """Gives the address of a plugin's own socket, besides the one that all share; `None`: there are none."""

    @property
    def stand_in(self) -> Callable[[], StandIn] | None:
        """Makes what answers on a connection while there is no runner (see `keeper`); `None`: nobody has to."""

    @property
    def kept_drain(self) -> float:
        """Seconds that calls under way get at the end where a keeper stands in, if that's more than `drain`."""

    def work(
        self,
        sock: socket.socket,
        handover: Handover,
        guard: Guard | None,
        region: Region,
        last_seen: LastSeen | None,
        keeper: socket.socket | None = None,
    ) -> int:
        """Be a worker until the supervisor says to end, or is gone; to be called in a process of its own.

        Args:
            sock: the worker's end of the channel.
            handover: what connections come by.
            guard: where to write what is asked on a connection.
            region: where to leave what other phases of a request look for.
            last_seen: where to say what blocks the loop.
            keeper: takes connections, as descriptors, when the worker ends with its supervisor.

        Returns:
            The process's exit code.
        """
