"""What `gatewright dev` serves as Kong now: which plugins there are, where they apply, and how all is reloaded."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gatewright.dev.inspector.facts import Facts
from gatewright.dev.kong.configuring import declared_by, lean_everywhere, plugins_of
from gatewright.dev.kong.declarative import Declared
from gatewright.dev.kong.facts import facts_of
from gatewright.dev.kong.findings import Findings
from gatewright.dev.kong.gateway import KongGateway
from gatewright.dev.kong.lean_runner import LeanRunner, names_lean
from gatewright.dev.kong.plugins import KnownPlugin, Plugins
from gatewright.dev.kong.servers import PluginServers
from gatewright.dev.kong.survey import sources_of
from gatewright.dev.options import DevOptions
from gatewright.errors import ConfigError, GatewrightError

__all__ = ["Serving"]


@dataclass(slots=True)
class Serving:
    """The state; a reload takes the files as they are, or leaves all as it was.

    Attributes:
        servers: who serves plugins.
        lean: who serves those of the lean path.
        file: the declarative file, if there is one.
        known: what plugin servers say of their plugins.
        declared: what applies where.
        plugins: the same, checked.
        blocked: why nothing may pass: every plugin is to guard every path, and one isn't there.
        changed: told of new facts.
    """

    options: DevOptions
    servers: PluginServers
    lean: LeanRunner
    file: Path | None
    is_lean: bool
    known: list[KnownPlugin] = field(default_factory=list)
    declared: Declared = field(default_factory=Declared)
    plugins: Plugins = field(init=False)
    gateway: KongGateway = field(init=False)
    blocked: list[str] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    sources: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    changed: Callable[[Facts], None] = lambda _: None
    _starting: asyncio.Future[None] | None = None

    async def begin(self) -> None:
        """Look at all for the first time.

        Raises:
            GatewrightError: a file is not valid, or plugins can't be looked at.
        """
        await self._look(first=True)
        if self.file is None and not self.options.admin:
            self.blocked = list(self.servers.errors)
        else:  # requests that such a plugin would guard are refused, the others go on
            for fault in self.servers.errors:
                print(fault, file=sys.stderr, flush=True)

    async def _look(self, *, first: bool = False) -> None:
        known = await self.servers.known()
        if not first and self.file is None and self.servers.errors:
            raise GatewrightError(self.servers.errors[0])
        if self.options.admin and not (first and self.file is not None):
            declared = self.declared  # as the Admin API was told
        elif self.is_lean:
            declared = lean_everywhere(self.lean.found, self.options.confs)
        else:
            declared = declared_by(self.file, known, self.options.confs)
        if names_lean(declared):
            await self.lean.ensure()
        plugins = plugins_of(self.file, known, declared, self.servers.errors)
        self.known, self.declared, self.plugins = known, declared, plugins

    async def look_at_code(self) -> None:
        """Look what is wrong with the plugins' code, and tell what is new; find out in which files they are."""
        await self.findings.look(self.servers.places)
        if self.options.inspect.page:
            self.sources.update(await sources_of(self.servers.places))

    @property
    def over_lean(self) -> list[dict[str, Any]]:
        """The plugins that the lean path's runner is asked for (see `dev.survey`)."""
        uses = self.plugins.uses
        return [each for each in self.lean.found.plugins if self.is_lean or uses(each["name"], lean=True)]

    def why_blocked(self) -> list[str]:
        """Why nothing may pass now."""
        return self.blocked

    def hints(self, plugin: str) -> list[str]:
        """What was found out about a plugin that refuses requests, and how that's mended."""
        return self.lean.found.hints(plugin) or self.findings.hints(plugin)

    def apply(self, declared: Declared) -> None:
        """Take what the Admin API was told.

        Raises:
            ConfigError: it is not valid.
        """
        plugins = plugins_of(self.file, self.known, declared, by_admin=True)
        for name in plugins.missing.keys() - self.plugins.missing.keys():
            cure = plugins.missing[name].rpartition(": ")[2]
            raise ConfigError(f"name: plugin '{name}' not enabled; {cure}")
        self.gateway.replace(declared, plugins)
        self.plugins = plugins
        self.declared = declared
        if names_lean(declared) and not self.lean.is_started:
            self._starting = asyncio.ensure_future(self.lean.ensure())  # requests are refused until it is there

    def facts(self) -> Facts:
        """What the inspector is told."""
        gateway, host = self.gateway, self.options.host
        return facts_of(self.known, gateway.declared, self.sources, host, gateway.port, self.over_lean)

    async def reload(self) -> str:
        """Reload; gives what to tell.

        Raises:
            GatewrightError: what is wrong with the files.
        """
        if self.blocked:
            await self.servers.known()
            if self.servers.errors:
                self.blocked = list(self.servers.errors)
                return "\n".join(self.blocked)
        await self.servers.reload()
        await self.lean.reload()
        await self._look()
        self.gateway.replace(self.declared, self.plugins)
        self.blocked = []
        await self.look_at_code()
        self.changed(self.facts())
        names = [plugin.name for plugin in self.known] or [plugin["name"] for plugin in self.lean.found.plugins]
        return f"reloaded: {', '.join(names)}"
