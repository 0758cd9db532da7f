"""Instances and events of a worker."""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, Protocol

from gatewright.config import config_schema
from gatewright.errors import ConfigError
from gatewright.gateways.kong.dump import kong_fields, without_nulls
from gatewright.gateways.kong.events import PHASES
from gatewright.runtime.chain import Chain
from gatewright.runtime.sources import makes_tasks
from gatewright.runtime.strands import Strand
from gatewright.runtime.weight import too_heavy
from gatewright.server.drivers.kong.event import Event, conclude
from gatewright.server.drivers.kong.neighbours import PID_BITS, Neighbours
from gatewright.server.drivers.kong.owners import Owners
from gatewright.server.worker.service import Service

__all__ = ["Instances"]

_CLEAR_SECONDS: Final = 0.02
_TICK_SECONDS: Final = 1.0
_PATIENCE_TICKS: Final = 5  # for a call that Kong carries out at once
_ADDED_BY_KONG: Final = frozenset(("route_id", "service_id", "consumer_id", "plugin_instance_name"))
"""Beside `__seq__` and others that begin so (plugins_iterator.lua, `get_plugin_config`)."""
_EVENT_MASK: Final = (1 << 28) - 1


class Noted(Protocol):
    """A connection with a note for the guard."""

    asked: int
    """Counts requests."""

    def clear_guard(self) -> bool:
        """Take the note back of what was asked, if all was sent; tells whether that is so."""


class Connection(Noted, Protocol):
    """A connection of this process's, as instances and events see it."""

    event: Event | None

    def write(self, data: bytes) -> None:
        """Send an answer."""

    def refuse_number(self, ticket: int, event: int) -> None:
        """Answer a request with 500 whose event is gone."""


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
        self.fetched_first: MutableMapping[str, bool] = _FetchedFirst(self)
        """Whether what an `async def` handler may look at is fetched before it starts, by the plugin's name."""
        self.phases = service.phases = dict.fromkeys(PHASES, 0)
        self._pid = os.getpid()
        self.tick = 0
        self.overdue: Mapping[str, int] = {}
        """Plugins with too many events that Kong has long been at work for, and how many."""
        service.every(_TICK_SECONDS, self._count_waiting)
        self.owners = Owners(self.close)
        service.every(Owners.INTERVAL, self.owners.look)
        service.on_forgotten = self.owners.closed  # also where there were too many
        self.to_clear: list[tuple[Noted, int]] = []
        self.neighbours = Neighbours(service, self.events, self.connections)

    def start(self, name: str, json_text: bytes, answer: Callable[[int | None, Any], None]) -> None:
        """Make an instance; `answer` gets its id and its configuration.

        A plugin that is unknown or whose configuration is invalid gives one that refuses all.

        Raises:
            ConfigError: the configuration is not JSON.
        """
        raw = json_text.decode("utf-8", "surrogateescape")
        if too_heavy(raw):  # it's not read here either; its first call tells why it can't be used
            key = f"{name}#global\0{secrets.token_hex(8)}"
            self.service.prepare(key, [(name, raw)], lambda number: answer(number, None))
            return
        try:
            config = json.loads(json_text) if json_text else {}
        except (ValueError, RecursionError) as error:
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
        self.owners.closed(number)
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
        schema = config_schema(plugin.Config)
        known = {name for field in kong_fields(schema) for name in field}
        own = {
            key: value
            for key, value in config.items()
            if key in known or not (key.startswith("__") or key in _ADDED_BY_KONG)
        }
        return without_nulls(schema, own)

    def new_event_number(self) -> int:
        """An id that no event has had; which worker's can be told from it."""
        while True:
            self._next_event = self._next_event + 1 & _EVENT_MASK
            number = self._next_event << PID_BITS | self._pid
            if number not in self.events:
                return number

    def forget(self, event: Event) -> None:
        """Kong will ask nothing more about an event."""
        self.events.pop(event.number, None)

    def _count_waiting(self) -> None:
        """Give up on events whose call failed in Kong unseen, and see that those of one plugin don't take all room."""
        self.tick += 1
        waiting: Counter[str] = Counter()
        for event in [event for event in self.events.values() if event.waits_since(self.tick - 2)]:
            if event.waits_since(self.tick - _PATIENCE_TICKS):
                event.give_up_waiting()
            waiting[event.chain.name] += not event.over
        most = self.service.settings.max_calls / 2
        self.overdue = {name: count for name, count in waiting.items() if count > most}

    def add(self, connection: Connection) -> int:
        """Number a connection."""
        self._next_connection += 1
        self.connections[self._next_connection] = connection
        return self._next_connection

    def refuse_all(self) -> None:
        """Refuse what is under way: the process ends, and a connection that closes would let a request pass."""
        for event in [*self.events.values(), *(each.event for each in self.connections.values() if each.event)]:
            if not event.over and event.connection is not None:
                event.verdict = "refuse"
                conclude(event.connection, event)

    def clear_soon(self, connection: Noted) -> None:
        """Take the note back of what a connection was asked, once the answer has left."""
        if not self.to_clear:
            self.service.loop.call_soon(self._clear)
        self.to_clear.append((connection, connection.asked))

    def _clear(self) -> None:
        to_clear, self.to_clear = self.to_clear, []
        for connection, asked in to_clear:
            if connection.asked == asked and not connection.clear_guard():  # and not the note of what came after it
                self._clear_later(connection, asked)

    def _clear_later(self, connection: Noted, asked: int) -> None:
        self.service.loop.call_later(_CLEAR_SECONDS, self._clear_one, connection, asked)

    def _clear_one(self, connection: Noted, asked: int) -> None:
        if connection.asked == asked and not connection.clear_guard():
            self._clear_later(connection, asked)


class _LuaStyle(dict[str, bool]):
    """Whether a plugin's PDK calls give `(value, error)`, by its name."""

    def __init__(self, instances: Instances) -> None:
        self._instances = instances

    def __missing__(self, name: str) -> bool:
        self[name] = self._instances.lua_style and self._instances.made_for_kong(name)
        return self[name]


class _FetchedFirst(dict[str, bool]):
    """Whether a plugin's own tasks may look at a request, which can't wait for what they see; by its name."""

    def __init__(self, instances: Instances) -> None:
        self._service = instances.service

    def __missing__(self, name: str) -> bool:
        plugin = self._service.builder.plugins.get(name)
        self[name] = not self._service.bridge.waits_here or plugin is None or makes_tasks(plugin)
        return self[name]


def _place_of(config: Any) -> str:
    """What Kong applies a configuration to, as far as it says."""
    places = ("route_id", "service_id", "consumer_id")
    return next((str(config[name]) for name in places if isinstance(config, dict) and config.get(name)), "global")
