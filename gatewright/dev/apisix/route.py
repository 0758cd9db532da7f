"""A route and its plugins as they are once a file is read, and which of them a request has (APISIX's router)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

from gatewright.dev.apisix.balancing import Balanced
from gatewright.dev.apisix.expressions import Condition, LuaValue, address_matches
from gatewright.dev.messages import raw
from gatewright.dev.target import Upstream

__all__ = ["PluginConf", "Route", "Routes"]

_LONGEST_REST: Final = 6398
"""Bytes that `*` after a slash takes: APISIX's router makes it a group of single characters, for each of which the
matching of regular expressions needs some of its stack."""
_EXACT: Final = 1 << 20
"""The rank of what matches whole, above that of any pattern with a wildcard."""
_Rank = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class PluginConf:
    """A plugin's configuration and the key under which its token is cached.

    Attributes:
        conf: the configuration.
        key: the key.
        condition: the plugin runs only if it holds.
    """

    conf: Mapping[str, Any]
    key: str
    condition: Condition | None = None

    @property
    def entries(self) -> list[tuple[str, str]] | None:
        """Names and values of an ext-plugin's `conf`; `None` where the field is absent."""
        entries = self.conf.get("conf")
        return None if entries is None else [(entry["name"], entry["value"]) for entry in entries]

    @property
    def allow_degradation(self) -> bool:
        """Whether requests pass when the runner fails."""
        return bool(self.conf.get("allow_degradation", False))

    @property
    def meta(self) -> Mapping[str, Any]:
        """What is said about the plugin itself: its priority, what it refuses with."""
        return self.conf.get("_meta") or {}


@dataclass(frozen=True, slots=True)
class Route:
    """A route with all that its service and plugin config add to it."""

    id: str
    uris: tuple[str, ...]
    upstream: Balanced | None
    plugins: Mapping[str, PluginConf]
    methods: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    condition: Condition | None = None
    priority: int = 0
    conf_type: str = "route"
    conf_id: str = ""
    version: str = ""
    upgrades: bool = False
    """Websockets pass."""
    facts: dict[str, str] = field(default_factory=dict)
    """`route_id`, and where there are such, `route_name`, `service_id`, `service_name`."""

    def rank(self, method: str, host: str, path: str) -> _Rank | None:
        """How well a request matches, higher is better; `None` if it doesn't."""
        if self.methods and method not in self.methods:
            return None
        where = max((_host_rank(pattern, host) for pattern in self.hosts), default=-1)
        if self.hosts and where < 0:
            return None
        how, length = max(((_uri_rank(pattern, path), len(pattern)) for pattern in self.uris), default=(-1, 0))
        return None if how < 0 else (where, how, self.priority, length)

    def holds(self, address: str, ask: Callable[[str], LuaValue]) -> bool:
        """Whether what else it wants is so."""
        if self.addresses and not address_matches(address, self.addresses):
            return False
        return self.condition is None or self.condition(ask)


@dataclass(frozen=True, slots=True)
class Routes:
    """All that a route file says."""

    routes: Sequence[Route]
    global_rules: Sequence[Mapping[str, PluginConf]] = ()
    version: str = ""
    known_consumers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """All of them, by name: their plugins."""
    groups: Mapping[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)
    """The groups that consumers are in, by the consumers' names: their ids and plugins."""
    custom_ids: Mapping[str, str] = field(default_factory=dict)
    """What consumers are called elsewhere, by name: their label `custom_id`."""

    def to(self, upstream: Upstream) -> Routes:
        """The same routes, whose requests go elsewhere; how their upstreams are to be asked stays."""
        there = Balanced.of(upstream)
        return replace(self, routes=[
            replace(route, upstream=replace(route.upstream or there, nodes=there.nodes, scheme=there.scheme))
            for route in self.routes
        ])  # fmt: skip

    def find(
        self,
        method: str,
        host: str,
        path: str,
        *,
        address: str = "127.0.0.1",
        ask: Callable[[str], LuaValue] = lambda _: None,
    ) -> Route | None:
        """The route for a request: by hosts, then by uris, of both the exact before the longer, then by priority.

        Args:
            method: the request's.
            host: its host.
            path: its path.
            address: the client's.
            ask: gives variables, for routes that want some.
        """
        ranked = [(rank, route) for route in self.routes if (rank := route.rank(method, host, path)) is not None]
        ranked.sort(key=lambda item: item[0], reverse=True)  # what is first in the file stays first
        return next((route for _, route in ranked if route.holds(address, ask)), None)


def _host_rank(pattern: str, host: str) -> int:
    host, pattern = host.rsplit(":", 1)[0].lower(), pattern.lower()
    if pattern.startswith("*"):
        return len(pattern) - 1 if host.endswith(pattern[1:]) else -1
    return _EXACT if host == pattern else -1


def _uri_rank(pattern: str, path: str) -> int:
    before, star, _ = pattern.partition("*")
    if not star:
        return _EXACT if path == pattern else -1
    if not path.startswith(before):
        return -1
    whole = _whole(pattern)
    if whole is None:  # a `*` within a segment: what follows it counts for nothing
        return len(before)
    if len(raw(path)) - len(raw(before)) > _LONGEST_REST:
        return -1
    found = whole.search(path)
    return len(before) if found is not None and found[0] == path else -1


@lru_cache(maxsize=4096)
def _whole(pattern: str) -> re.Pattern[str] | None:
    """What a path must be, if whole segments of the pattern stand for something; text between is taken as it is."""
    segments = pattern.split("/")
    if not any(segment.startswith(("*", ":")) for segment in segments):
        return None
    parts = []
    for segment in segments:
        if segment.startswith(":"):
            parts.append(r"[\w\-_;:@&=!',%$.+*()]+")
        else:
            parts.append(r"[\s\S]*" if segment.startswith("*") else segment)
    try:
        return re.compile("/".join(parts), re.ASCII)
    except re.error:
        return re.compile("(?!)")
