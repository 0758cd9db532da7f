"""The runner that the lean path's plugins ask: `gatewright run` for the same plugins, started once a route needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from gatewright.dev.here import RunnerHere, runner_here, settings_for_debugging
from gatewright.dev.kong.declarative import Declared
from gatewright.dev.kong.lean_schema import LEAN_PLUGINS
from gatewright.dev.kong.plugins import KnownPlugin
from gatewright.dev.kong.servers import Start
from gatewright.dev.lean.client import LeanClient
from gatewright.dev.options import DevOptions
from gatewright.dev.runner_process import reload_runner, runner_process
from gatewright.dev.survey import Survey, survey
from gatewright.runtime.discovery import discover
from gatewright.server.drivers.runner import plan
from gatewright.settings import parse_address

__all__ = ["LeanRunner", "LeanServers", "names_lean"]


def names_lean(declared: Declared) -> bool:
    """Whether a configuration has any of the lean path's plugins."""
    return any(entry.name in LEAN_PLUGINS for entry in declared.plugins)


@dataclass(slots=True)
class LeanRunner:
    """The runner.

    Attributes:
        found: what plugins it has.
        client: the way to it.
        process: where it runs, unless that's here.
        is_started: it runs.
    """

    options: DevOptions
    prefix: str
    environ: Mapping[str, str]
    stack: AsyncExitStack
    found: Survey = field(default_factory=lambda: Survey([], []))
    client: LeanClient = field(init=False)
    process: asyncio.subprocess.Process | None = None
    is_started: bool = False
    _path: str = ""
    _here: RunnerHere | None = None
    _started: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._path = f"{self.prefix}/runner.sock"
        self.client = LeanClient(parse_address(f"unix:{self._path}"), patient=self.options.debug)
        self.stack.callback(self.client.close)

    async def ensure(self) -> None:
        """Start it, unless that was done.

        Raises:
            GatewrightError: it ended, or didn't listen in time.
        """
        if self.is_started:
            return
        self.is_started = True
        await self.look()
        if self.options.debug:
            self._here = await self._start_here()
        else:
            self.process = await self.stack.enter_async_context(
                runner_process(
                    self.options.paths, f"unix:{self._path}", environ=self.environ, log_level=self.options.log_level
                )
            )
        self._started.set()

    async def _start_here(self) -> RunnerHere:
        paths: Sequence[Path] = self.options.paths
        record = {"record": self.environ["GATEWRIGHT_RECORD"]} if self.environ else {}
        settings = settings_for_debugging(f"unix:{self._path}", plugins=[str(path) for path in paths], **record)
        made = plan(settings, lambda: discover(settings.plugins, installed=settings.installed_plugins))
        return await self.stack.enter_async_context(
            runner_here(made, self._path, [*paths, *self.options.watched])
        )  # fmt: skip

    async def ended(self) -> None:
        """Wait until it has ended by itself."""
        await self._started.wait()
        if self.process is None:  # it runs here
            await asyncio.Event().wait()
        else:
            await self.process.wait()

    async def look(self) -> None:
        """Look which plugins there are.

        Raises:
            GatewrightError: that can't be found out.
        """
        self.found = await survey(self.options.paths, self.options.confs)

    async def reload(self) -> None:
        """Have it load its plugins anew, if it runs.

        Raises:
            GatewrightError: one can't be loaded; all stays as it was.
        """
        if self._here is not None:
            self._here.reload()
        elif self.is_started:
            await reload_runner(self._path)
        if self.is_started:
            await self.look()


@dataclass(slots=True)
class LeanServers:
    """No plugin servers, but a runner alone (see `servers.PluginServers`)."""

    runner: LeanRunner

    @property
    def errors(self) -> list[str]:
        """See `PluginServers`."""
        found = self.runner.found
        if not found.errors and not found.plugins:
            return [f"no plugins yet in {', '.join(map(str, self.places))}: save one, and it is loaded"]
        return [f"plugin not loaded: {error}" for error in found.errors]

    @property
    def starts(self) -> list[Start]:
        """See `PluginServers`."""
        return []

    @property
    def watched(self) -> list[Path]:
        """See `PluginServers`."""
        return self.places

    @property
    def places(self) -> list[Path]:
        """See `PluginServers`."""
        return list(self.runner.options.paths)

    async def known(self) -> list[KnownPlugin]:
        """See `PluginServers`."""
        await self.runner.ensure()
        await self.runner.look()
        return []

    async def reload(self) -> None:
        """The runner itself is reloaded."""
