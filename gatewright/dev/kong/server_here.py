"""A plugin server in the development gateway's own process, for debuggers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gatewright.dev.here import RunnerHere, runner_here, settings_for_debugging
from gatewright.dev.kong.plugins import KnownPlugin, known_plugins
from gatewright.dev.kong.servers import Start
from gatewright.dev.options import DevOptions
from gatewright.gateways.kong.dump import dump
from gatewright.runtime.discovery import Discovery
from gatewright.runtime.kong_modules import load_plugins
from gatewright.server.drivers.kong.driver import plan

__all__ = ["ServerHere", "server_here"]


@dataclass(slots=True)
class ServerHere:
    """A plugin server in this process."""

    here: RunnerHere
    discovery: Discovery
    protocol: str
    socket: str
    paths: Sequence[Path]

    @property
    def places(self) -> list[Path]:
        """See `PluginServers`."""
        return list(self.paths)

    @property
    def errors(self) -> list[str]:
        """See `PluginServers`."""
        return [f"plugin not loaded: {error}" for error in self.discovery.errors]

    @property
    def starts(self) -> list[Start]:
        """See `PluginServers`."""
        return []

    @property
    def watched(self) -> list[Path]:
        """See `PluginServers`."""
        return list(self.paths)

    async def known(self) -> list[KnownPlugin]:
        """See `PluginServers`."""
        output = dump(list(self.discovery.plugins.values()), self.protocol)
        return known_plugins(output, lambda _: self.socket)

    async def reload(self) -> None:
        """See `PluginServers`."""
        self.discovery = self.here.reload()


@asynccontextmanager
async def server_here(
    options: DevOptions, prefix: str, protocol: str, shipped: Sequence[str], environ: Mapping[str, str]
) -> AsyncIterator[ServerHere]:
    """Have one.

    Args:
        options: what is wanted.
        prefix: a directory for its socket.
        protocol: a key of `PROTOCOLS`.
        shipped: plugins that come along and are served, too.
        environ: of the inspection.
    """
    paths = options.paths
    socket = f"{prefix}/here.sock"
    record = {"record": environ["GATEWRIGHT_RECORD"]} if environ else {}
    settings = settings_for_debugging(f"unix:{socket}", conf_expire=1e9, **record)

    def discover() -> Discovery:
        discovery = Discovery()
        for path in paths:
            one = load_plugins(path, shipped)
            discovery.errors += one.errors
            for found in one.found.values():
                discovery.add(found.plugin, found.source)
        return discovery

    made = plan(settings, discover, protocol=protocol, lua_style=True)
    async with runner_here(made, socket, [*paths, *options.watched]) as here:
        yield ServerHere(here, discover(), protocol, socket, paths)
