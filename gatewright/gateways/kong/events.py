"""What Kong's two sessions tell their driver, and what every one of them can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

__all__ = [
    "PHASES", "Answer", "CloseInstance", "HandleEvent", "KongEvent", "KongSession", "Query", "StartInstance",
]  # fmt: skip

PHASES = ("certificate", "rewrite", "access", "response", "preread", "log")
"""Phases that a plugin server may have handlers for (kong-pdk, module.py; go-pdk, server/rpc.go)."""


class StartInstance(msgspec.Struct, frozen=True):
    """Kong wants an instance of a plugin for a configuration (JSON). `ticket` goes with the answer, as always."""

    ticket: int
    name: str
    config: bytes


class CloseInstance(msgspec.Struct, frozen=True):
    """Kong no longer needs an instance."""

    ticket: int
    instance: int


class HandleEvent(msgspec.Struct, frozen=True):
    """A request has come to a phase."""

    ticket: int
    instance: int
    phase: str


class Answer(msgspec.Struct, frozen=True):
    """Kong's answer to a PDK call.

    Attributes:
        ticket: of the next thing to be said in this event.
        event: the event's id, or `None`: the one of this connection.
        value: what came back.
        error: Kong says that the call failed.
    """

    ticket: int
    event: int | None
    value: Any
    error: str = ""


class Query(msgspec.Struct, frozen=True):
    """Kong, or a human, asks how things are: `status`, `plugin_names`, `plugin_info` or `instance_status`."""

    ticket: int
    what: str
    argument: Any = None


KongEvent = StartInstance | CloseInstance | HandleEvent | Answer | Query


class KongSession(Protocol):
    """One connection's protocol state. Every method but `receive_data` gives bytes to be written as they are."""

    moves: bool
    """An event's steps may come over other connections."""
    ahead: bool
    """The last call's answer says nothing, and does not come as an event: the next thing can be said right away."""
    patient: bool
    """Wait for all answers: so that nothing is still to come when an event is over."""
    buffered: int
    """Bytes received but not yet turned into an event, and answers still to come: not 0 in the middle of things."""

    def receive_data(self, data: bytes) -> Sequence[KongEvent]:
        """Take bytes in as they came.

        Raises:
            ProtocolError: the peer broke the protocol; the connection has to be closed.
        """

    def started(self, ticket: int, name: str, instance: int, config: Any, at: float) -> bytes:
        """Answer `StartInstance`."""

    def closed(self, ticket: int, name: str, instance: int, config: Any, at: float) -> bytes:
        """Answer `CloseInstance`."""

    def answered(self, ticket: int, what: str, content: Any) -> bytes:
        """Answer `Query`."""

    def call(self, ticket: int, event: int, method: str, args: Sequence[Any]) -> bytes:
        """Call a PDK method in an event; its `Answer` comes as an event, unless the method is terminal.

        Raises:
            PluginError: there is no such method over this protocol, or the arguments don't suit it.
        """

    def done(self, ticket: int, event: int) -> bytes:
        """The event is over."""

    def number_of(self, ticket: int) -> int:
        """Kong's number for the wish, on this connection, that an event's ticket came with last."""

    def failed(self, ticket: int, message: str) -> bytes | None:
        """Answer with an error; `None` where the protocol has none: then the connection is to be closed."""

    @classmethod
    def last_words(cls, asked: bytes, refusal: Sequence[Any]) -> bytes:
        """What to write for a server that died and owes an answer on this connection.

        Args:
            asked: the first bytes of the request, as many as there are up to 31.
            refusal: arguments of `kong.response.exit`.
        """
