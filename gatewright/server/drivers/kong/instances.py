"""Instances and events of a worker, and the steps that came to another worker's connection."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast

import msgspec

from gatewright.config import config_schema
from gatewright.errors import ConfigError
from gatewright.gateways.kong.dump import kong_fields
from gatewright.gateways.kong.events import PHASES, Answer, KongSession
from gatewright.runtime.bridge import Strand
from gatewright.runtime.chain import Chain
from gatewright.server.drivers.kong.event import REFUSAL, Event, conclude
from gatewright.server.ipc import messages
from gatewright.server.worker.service import Service, Uplink

__all__ = ["Instances"]

_CLEAR_SECONDS: Final = 0.02
_PID_BITS: Final = 24  # with an event counter of 28 bits, within what Lua's numbers hold exactly
_ADDED_BY_KONG: Final = frozenset(("route_id", "service_id", "consumer_id", "plugin_instance_name"))
"""Beside `__seq__` and others that begin so (plugins_iterator.lua, `get_plugin_config`)."""
_PID_MASK: Final = (1 << _PID_BITS) - 1
_EVENT_MASK: Final = (1 << 28) - 1


class Connection(Protocol):
    """A connection of this process's, as instances and events see it."""

    event: Event | None
    asked: int
    """Counts requests."""

    def write(self, data: bytes) -> None:
        """Send an answer."""

    def refuse_number(self, ticket: int, event: int) -> None:
        """Answer a request with 500 whose event is gone."""

    def clear_guard(self) -> bool:
        """Take the note back of what was asked, if all was sent; tells whether that is so."""


class Instances:
    """The instances and the events of a process, which all its connections share.

    An instance is a configuration with a token, as with any gateway, so all workers know it as soon as Kong does. Each
    start has a configuration of its own (a random number is part of it), so that no id is given twice, nor by the next
    process for something else. An event's id names the worker that runs it; events count on from a random number.
    """

    def __init__(self, service: Service, *, lua_style: bool) -> None:
        """Make an empty table.

        Args:
            service: the process's service.
            lua_style: PDK calls give `(value, error)`.
        """
        self.service = service
        self.lua_style = lua_style
        self.events: dict[int, Event] = {}
        self.connections: dict[int, Connection] = {}
        self._next_event = secrets.randbits(24)
        self._next_connection = 0
        self.in_lua_style: Mapping[str, bool] = _LuaStyle(self)
        self.phases = service.phases = dict.fromkeys(PHASES, 0)
        self._pid = os.getpid()
        self._to_clear: list[tuple[Connection, int]] = []
        self._sent: dict[tuple[int, int], tuple[int, int]] = {}  # connection and ticket: process and event

    def start(self, name: str, json_text: bytes, answer: Callable[[int | None, Any], None]) -> None:
        """Make an instance; `answer` gets its id and its configuration.

        A plugin that is unknown or whose configuration is invalid gives one that refuses all.

        Raises:
            ConfigError: the configuration is not JSON.
        """
        try:
            config = json.loads(json_text) if json_text else {}
        except ValueError as error:
            raise ConfigError(f"the configuration of {name} is not JSON: {error}") from None
        text = json.dumps(config if self.made_for_kong(name) else self._own_config(name, config))
        key = f"{name}#{_place_of(config)}\0{secrets.token_hex(8)}"
        self.service.prepare(key, [(name, text)], lambda number: answer(number, config))

    def find(self, number: int, strand: Strand) -> Chain | None:
        """The chain of an instance, wherever it was started. To be called in a strand."""
        chain = self.service.confs.get(number)
        if chain is None and self.service.link is not None:
            chain = self.service.link.lookup(number, strand)
        return chain

    def close(self, number: int) -> None:
        """Drop an instance, everywhere."""
        if self.service.link is not None:
            self.service.link.forget(number)
        else:
            self.service.confs.forget(number)

    def made_for_kong(self, name: str) -> bool:
        """Whether a plugin is in kong-pdk's form."""
        return getattr(self.service.builder.plugins.get(name), "kong_schema", None) is not None

    def _own_config(self, name: str, config: Any) -> Any:
        """The configuration without what Kong adds to it, and what was left empty."""
        plugin = self.service.builder.plugins.get(name)
        if not isinstance(config, dict) or plugin is None:
            return config
        known = {name for field in kong_fields(config_schema(plugin.Config)) for name in field}
        return {
            key: value
            for key, value in config.items()
            if value is not None and (key in known or not (key.startswith("__") or key in _ADDED_BY_KONG))
        }

    def new_event_number(self) -> int:
        """An id that no event has had; which worker's can be told from it."""
        while True:
            self._next_event = self._next_event + 1 & _EVENT_MASK
            number = self._next_event << _PID_BITS | self._pid
            if number not in self.events:
                return number

    def add(self, connection: Connection) -> int:
        """Number a connection."""
        self._next_connection += 1
        self.connections[self._next_connection] = connection
        return self._next_connection

    # --- steps that came to another worker's connection

    def is_elsewhere(self, event: int) -> bool:
        """Whether another worker runs an event."""
        return self.service.link is not None and event & _PID_MASK != self._pid

    def forward(self, connection: int, answer: Answer) -> None:
        """Send an answer of Kong's to the worker whose event it's for."""
        event = cast("int", answer.event)
        self._sent[connection, answer.ticket] = event & _PID_MASK, event
        content = msgspec.msgpack.encode([answer.value, answer.error])
        self._post(messages.Letter(event & _PID_MASK, self._pid, connection, False, answer.ticket, event, content))

    def send_back(self, letter: messages.Letter, data: bytes) -> None:
        """Send bytes for a connection of another worker's."""
        self._post(messages.Letter(letter.sender, self._pid, letter.connection, True, letter.ticket, 0, data))

    def _post(self, letter: messages.Letter) -> None:
        cast("Uplink", self.service.link).forward(letter)

    def on_letter(self, letter: messages.Letter, delivered: bool, new_session: Callable[[], KongSession]) -> None:
        """A letter has come, or one of ours came back."""
        if delivered and not letter.back:
            there = Elsewhere(self, letter, new_session())
            value, error = msgspec.msgpack.decode(letter.content)
            event = self.events.get(letter.event)
            if event is None:
                there.refuse_number(letter.ticket, letter.event)
            else:
                event.take_answer(there, Answer(letter.ticket, letter.event, value, error))
            return
        connection = self.connections.get(letter.connection)
        if self._sent.pop((letter.connection, letter.ticket), None) is None:
            return  # answered without it
        if connection is not None and letter.back and delivered:
            connection.write(letter.content)
        elif connection is not None and not letter.back:
            connection.refuse_number(letter.ticket, letter.event)

    def refuse_all(self) -> None:
        """Refuse what is under way: the process ends, and a connection that closes would let a request pass."""
        for event in [*self.events.values(), *(each.event for each in self.connections.values() if each.event)]:
            if not event.over and event.connection is not None:
                event.verdict = "refuse"
                conclude(event.connection, event)

    def clear_soon(self, connection: Connection) -> None:
        """Take the note back of what a connection was asked, once the answer has left."""
        if not self._to_clear:
            self.service.loop.call_soon(self._clear)
        self._to_clear.append((connection, connection.asked))

    def _clear(self) -> None:
        to_clear, self._to_clear = self._to_clear, []
        for connection, asked in to_clear:
            self._clear_one(connection, asked)

    def _clear_one(self, connection: Connection, asked: int) -> None:
        if connection.asked == asked and not connection.clear_guard():  # and not the note of what came after it
            self.service.loop.call_later(_CLEAR_SECONDS, self._clear_one, connection, asked)

    def on_gone(self, pid: int) -> None:
        """Another worker has ended: refuse what it was asked."""
        for (number, ticket), (process, event) in list(self._sent.items()):
            if process == pid & _PID_MASK:
                del self._sent[number, ticket]
                connection = self.connections.get(number)
                if connection is not None:
                    connection.refuse_number(ticket, event)


class _LuaStyle(dict[str, bool]):
    """Whether a plugin's PDK calls give `(value, error)`, by its name."""

    def __init__(self, instances: Instances) -> None:
        self._instances = instances

    def __missing__(self, name: str) -> bool:
        self[name] = self._instances.lua_style and self._instances.made_for_kong(name)
        return self[name]


def _place_of(config: Any) -> str:
    """What Kong applies a configuration to, as far as it says."""
    places = ("route_id", "service_id", "consumer_id")
    return next((str(config[name]) for name in places if isinstance(config, dict) and config.get(name)), "global")


class Elsewhere:
    """Another worker's connection, for as long as one answer takes."""

    def __init__(self, instances: Instances, letter: messages.Letter, session: KongSession) -> None:
        self.session = session
        self._instances = instances
        self._letter = letter

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._instances.send_back(self._letter, data)

    write_ahead = write

    def event_over(self, event: Event, *, exited: bool) -> None:
        """An event has ended."""
        self._instances.events.pop(event.number, None)

    def refuse_number(self, ticket: int, event: int) -> None:
        """Answer a request with 500 whose event is gone."""
        self.write(self.session.call(ticket, event, "kong.response.exit", REFUSAL))
