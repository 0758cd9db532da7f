"""Steps that came to another worker's connection, and what is said on them, by letters through the supervisor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, cast

import msgspec

from gatewright.gateways.kong.events import Answer, KongSession
from gatewright.server.drivers.kong.event import REFUSAL, Event
from gatewright.server.ipc import messages
from gatewright.server.worker.between import Uplink
from gatewright.server.worker.service import Service

__all__ = ["Letters"]


class Connection(Protocol):
    """A connection of this process's, as letters see it."""

    def write(self, data: bytes) -> None:
        """Send an answer."""

    def refuse_number(self, ticket: int, event: int) -> None:
        """Answer a request with 500 whose event is gone."""


class Letters:
    """The letters of a process. Events and connections are those of its `Instances`."""

    def __init__(
        self, service: Service, pid: int, pid_mask: int, events: dict[int, Event], connections: Mapping[int, Connection]
    ) -> None:
        """Make it.

        Args:
            service: the process's service.
            pid: of this process.
            pid_mask: the bits of an event's id that name its process.
            events: those under way here, by their id.
            connections: those of this process, by their number.
        """
        self._service = service
        self._pid = pid
        self._pid_mask = pid_mask
        self._events = events
        self._connections = connections
        self._sent: dict[tuple[int, int], tuple[int, int]] = {}  # connection and ticket: process and event

    def is_elsewhere(self, event: int) -> bool:
        """Whether another worker runs an event."""
        return self._service.link is not None and event & self._pid_mask != self._pid

    def forward(self, connection: int, answer: Answer) -> None:
        """Send an answer of Kong's to the worker whose event it's for."""
        event = cast("int", answer.event)
        self._sent[connection, answer.ticket] = event & self._pid_mask, event
        content = msgspec.msgpack.encode([answer.value, answer.error])
        self._post(messages.Letter(event & self._pid_mask, self._pid, connection, False, answer.ticket, event, content))

    def send_back(self, letter: messages.Letter, data: bytes) -> None:
        """Send bytes for a connection of another worker's."""
        self._post(messages.Letter(letter.sender, self._pid, letter.connection, True, letter.ticket, 0, data))

    def _post(self, letter: messages.Letter) -> None:
        cast("Uplink", self._service.link).forward(letter)

    def on_letter(self, letter: messages.Letter, delivered: bool, new_session: Callable[[], KongSession]) -> None:
        """A letter has come, or one of ours came back."""
        if delivered and not letter.back:
            there = Elsewhere(self, letter, new_session())
            value, error = msgspec.msgpack.decode(letter.content)
            event = self._events.get(letter.event)
            if event is None:
                there.refuse_number(letter.ticket, letter.event)
            else:
                event.take_answer(there, Answer(letter.ticket, letter.event, value, error))
            return
        connection = self._connections.get(letter.connection)
        if self._sent.pop((letter.connection, letter.ticket), None) is None:
            return  # answered without it
        if connection is not None and letter.back and delivered:
            connection.write(letter.content)
        elif connection is not None and not letter.back:
            connection.refuse_number(letter.ticket, letter.event)

    def event_over(self, event: Event) -> None:
        """An event has ended that was answered over another worker's connection."""
        self._events.pop(event.number, None)

    def on_gone(self, pid: int) -> None:
        """Another worker has ended: refuse what it was asked."""
        for (number, ticket), (process, event) in list(self._sent.items()):
            if process == pid & self._pid_mask:
                del self._sent[number, ticket]
                connection = self._connections.get(number)
                if connection is not None:
                    connection.refuse_number(ticket, event)


class Elsewhere:
    """Another worker's connection, for as long as one answer takes."""

    def __init__(self, letters: Letters, letter: messages.Letter, session: KongSession) -> None:
        self.session = session
        self.last: Event | None = None  # what comes next comes to that connection's worker
        self._letters = letters
        self._letter = letter

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._letters.send_back(self._letter, data)

    write_ahead = write

    def event_over(self, event: Event, *, exited: bool) -> None:
        """An event has ended."""
        self._letters.event_over(event)

    def refuse_number(self, ticket: int, event: int) -> None:
        """Answer a request with 500 whose event is gone."""
        self.write(self.session.call(ticket, event, "kong.response.exit", REFUSAL))
