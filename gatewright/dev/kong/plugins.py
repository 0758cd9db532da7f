"""Which plugins run for a request, with which configuration, at which plugin server."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from gatewright.dev.kong.declarative import Declared, PluginEntry
from gatewright.dev.kong.dialling import new_rpc
from gatewright.dev.kong.kongs_plugins import is_kongs_own
from gatewright.dev.kong.rpc import Instance, PluginRpc, RpcError
from gatewright.errors import GatewrightError
from gatewright.gateways.kong.conf import PluginServer
from gatewright.gateways.kong.dump import PROTOCOLS
from gatewright.runtime.kong_schema import filled

__all__ = ["Configured", "KnownPlugin", "Plugins", "known_plugins", "query", "query_all"]

log = logging.getLogger("gatewright.dev")

_QUERY_SECONDS = 30.0
_sequence = itertools.count(1)


@dataclass(frozen=True, slots=True)
class KnownPlugin:
    """What a plugin server says of its plugin."""

    name: str
    priority: int
    version: str
    phases: tuple[str, ...]
    fields: Sequence[Mapping[str, Any]]
    protocol: str
    socket: str


async def query(server: PluginServer) -> KnownPlugin:
    """A plugin server's plugin: since 3.9, Kong looks at the first one only. See `query_all`."""
    return (await query_all(server))[0]


async def query_all(server: PluginServer) -> list[KnownPlugin]:
    """Ask a plugin server's query command, as Kong does at its start (process.lua); gives one plugin at least.

    Raises:
        GatewrightError: it doesn't print what it should.
    """
    process = await asyncio.create_subprocess_shell(server.query_command, stdout=asyncio.subprocess.PIPE)
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _QUERY_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise GatewrightError(f"{server.query_command}: printed nothing within {_QUERY_SECONDS:g} s") from None
    try:
        known = known_plugins(output, lambda _: server.socket)
        known[0]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        shown = output[:200].decode(errors="replace")
        raise GatewrightError(
            f"failed decoding plugin info: {server.query_command} printed {shown!r}: {type(error).__name__}: {error}"
        ) from None
    return known


def known_plugins(output: bytes, socket_of: Callable[[str], str]) -> list[KnownPlugin]:
    """The plugins of a dump.

    Args:
        output: what was printed.
        socket_of: gives the path of a plugin's socket.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is not a dump.
    """
    dump = json.loads(output)
    default = PROTOCOLS["msgpack"]
    protocol = default if isinstance(dump, list) else dump.get("Protocol", default)
    known = []
    for info in dump if isinstance(dump, list) else dump["Plugins"]:
        configs = [field["config"] for field in info["Schema"]["fields"] if "config" in field]
        fields = configs[0].get("fields", ()) if configs else ()
        name, phases = info["Name"], tuple(info["Phases"])
        known.append(KnownPlugin(name, info["Priority"], info["Version"], phases, fields, protocol, socket_of(name)))
    return known


@dataclass(slots=True)
class Configured:
    """A plugin with a configuration, as it runs for a request."""

    plugin: KnownPlugin
    entry: PluginEntry
    instance: Instance
    rpc: PluginRpc | None
    """The way to its plugin server; `None` for one that has none."""
    missing: str = ""
    """Why it can't run, if it isn't there: it refuses the request."""


class Plugins:
    """All configured plugins, by their places."""

    def __init__(
        self,
        known: Sequence[KnownPlugin],
        declared: Declared,
        *,
        connect: Callable[[KnownPlugin], PluginRpc] = lambda plugin: new_rpc(plugin.protocol, plugin.socket),
        others: Mapping[str, KnownPlugin] = MappingProxyType({}),
        place_of: Callable[[str], str] = str,
        faults: Sequence[str] = (),
    ) -> None:
        """Check and complete the configurations.

        A plugin of Kong's own is left out. Any other that isn't there refuses the requests that it would have guarded:
        Kong itself would not start.

        Args:
            known: the plugins that there are.
            declared: where they are configured.
            connect: gives the way to a plugin's plugin server.
            others: plugins, by name, that no plugin server has.
            place_of: gives the file and line of a place in what is declared.
            faults: why plugins could not be loaded, each with its file.

        Raises:
            ConfigError: one is not valid.
        """
        absent = {entry.name for entry in declared.plugins} - {plugin.name for plugin in known} - others.keys()
        missing = {name: _missing(name) for name in absent if not is_kongs_own(name)}
        self._rpcs = {plugin.name: connect(plugin) for plugin in known}
        names = [plugin.name for plugin in known]
        known = [*known, *others.values(), *missing.values()]
        self._order = sorted(known, key=lambda plugin: (-plugin.priority, plugin.name))
        self._places: dict[tuple[str, str | None, str | None, str | None], Configured] = {}
        self.left_out: list[str] = []
        self.missing: dict[str, str] = {}
        by_name = {plugin.name: plugin for plugin in known}
        for entry in declared.plugins:
            if entry.name not in by_name:
                self.left_out.append(entry.name)
                continue
            plugin = by_name[entry.name]
            place = entry.name, entry.route, entry.service, entry.consumer
            if entry.name in missing:
                why = _why_missing(entry, names, place_of(entry.where), faults)
                self.missing[entry.name] = why
                self._places[place] = Configured(plugin, entry, Instance(entry.name, {}), None, why)
                continue
            config = {**filled(plugin.fields, entry.config, f"{entry.where}.config"), **_added(entry)}
            self._places[place] = Configured(plugin, entry, Instance(entry.name, config), self._rpcs.get(entry.name))

    def uses(self, name: str, *, lean: bool = False) -> bool:
        """Whether a plugin is configured anywhere, or with `lean` in a chain of the lean path's."""
        if not lean:
            return any(place[0] == name for place in self._places)
        chains = [each.instance.config.get("chain", ()) for each in self._places.values() if each.rpc is None]
        return any(entry["name"] == name for chain in chains for entry in chain)

    def everywhere(self) -> Iterator[Configured]:
        """What applies to all requests: the rewrite phase, which comes before a route is found, runs only these."""
        for plugin in self._order:
            configured = self._places.get((plugin.name, None, None, None))
            if configured is not None:
                yield configured

    def suiting(
        self, route: str | None, service: str | None, consumer: str | None, after: int = -1
    ) -> Configured | None:
        """The next plugin for a request, in order of priority.

        Args:
            route: id of the request's route.
            service: id of its service.
            consumer: id of its consumer, which a plugin before may have set.
            after: place in the order of the last one; -1 to begin with.
        """
        for plugin in self._order[after + 1 :]:
            for place in _by_precedence(route, service, consumer):
                configured = self._places.get((plugin.name, *place))
                if configured is not None:
                    return configured
        return None

    def place_of(self, configured: Configured) -> int:
        """A plugin's place in the order."""
        return self._order.index(configured.plugin)

    async def end(self) -> None:
        """Close all instances and connections: others have taken over."""
        for configured in self._places.values():
            if configured.instance.id is not None and configured.rpc is not None:
                try:
                    await configured.rpc.close_instance(configured.instance.id)
                except RpcError as error:
                    log.info("%s: instance not closed: %s", configured.plugin.name, error)
        for rpc in self._rpcs.values():
            rpc.close()


def _missing(name: str) -> KnownPlugin:
    """What stands for a plugin that isn't there: nothing runs before it."""
    return KnownPlugin(name, sys.maxsize, "", ("access",), (), "", "")


def _why_missing(entry: PluginEntry, names: Sequence[str], place: str, faults: Sequence[str]) -> str:
    near = get_close_matches(entry.name, names, 1)
    files = f"/{entry.name}.py:", f"/{entry.name.replace('-', '_')}.py:"
    own = [fault for fault in faults if any(file in fault for file in files)]
    cure = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(names)) or 'none'}"
    return (
        f"{place}: no plugin server has the plugin {entry.name}, so requests are refused (Kong wouldn't start): "
        f"{own[0] if own else cure}"
    )


def _by_precedence(
    route: str | None, service: str | None, consumer: str | None
) -> Iterator[tuple[str | None, str | None, str | None]]:
    """Kong's order of what is more specific (plugins_iterator.lua, `lookup_cfg`)."""
    places = (
        (route, service, consumer), (route, None, consumer), (None, service, consumer), (route, service, None),
        (None, None, consumer), (route, None, None), (None, service, None), (None, None, None),
    )  # fmt: skip
    seen = set()
    for place in places:
        if place not in seen:
            seen.add(place)
            yield place


def _added(entry: PluginEntry) -> dict[str, Any]:
    """What Kong puts into a configuration (plugins_iterator.lua, `get_plugin_config`)."""
    places = {"route_id": entry.route, "service_id": entry.service, "consumer_id": entry.consumer}
    named = {**places, "plugin_instance_name": entry.instance_name}
    key = ":".join(["plugins", entry.name, *(place or "" for place in places.values()), "", "default"])
    return {
        **{name: value for name, value in named.items() if value is not None},
        "__plugin_id": entry.id, "__ws_id": "default", "__key__": key, "__seq__": next(_sequence),
    }  # fmt: skip
