"""The plugin servers of `gatewright dev`: our own for some places, or those of a `kong.conf`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from gatewright.dev.kong.plugins import KnownPlugin, known_plugins, query
from gatewright.errors import ConfigError, GatewrightError
from gatewright.gateways.kong.conf import PluginServer, read_conf
from gatewright.observe.control import ask_json

__all__ = ["ConfiguredServers", "OwnServers", "PluginServers", "Start"]

Start = Callable[[], Awaitable[asyncio.subprocess.Process]]
"""Starts a process."""


class PluginServers(Protocol):
    """Whoever serves plugins."""

    @property
    def errors(self) -> Sequence[str]:
        """Plugins that could not be loaded when they were last looked at, each in words."""

    @property
    def starts(self) -> list[Start]:
        """What starts each of them."""

    @property
    def watched(self) -> list[Path]:
        """Whose changes make it reload."""

    @property
    def places(self) -> list[Path]:
        """Where the plugins' code is, as far as that is known."""

    async def known(self) -> list[KnownPlugin]:
        """Look which plugins there are.

        Raises:
            GatewrightError: that can't be found out.
        """

    async def reload(self) -> None:
        """Have them load their plugins anew.

        Raises:
            GatewrightError: one can't be loaded; all stays as it was.
        """


@dataclass(slots=True)
class OwnServers:
    """Plugin servers of our own, one for each place; the first has the plugins that come along, too."""

    paths: Sequence[Path]
    prefix: str
    protocol: str
    shipped: Sequence[str]
    environ: Mapping[str, str]
    log_level: str
    errors: list[str] = field(default_factory=list)
    _first: set[str] = field(default_factory=set)

    def _command(self, number: int, path: Path) -> list[str]:
        shipped = self.shipped if number == 0 else ()
        return [
            *(sys.executable, "-m", "kong_pdk.cli", "-d", str(path), "-p", self.prefix),
            *("--socket-name", f"server{number}.sock", "--socket-per-plugin", "--protocol", self.protocol),
            *(part for name in shipped for part in ("--plugin", name)),
            *{"debug": ["-vv"], "info": ["-v"]}.get(self.log_level, []),
        ]

    def _socket_of(self, number: int, name: str) -> str:
        """A plugin's own socket; one that came later has none."""
        own = f"{self.prefix}/{name}.socket"
        return own if name in self._first else f"{self.prefix}/server{number}.sock"

    async def known(self) -> list[KnownPlugin]:
        """See `PluginServers`."""
        known: dict[str, KnownPlugin] = {}
        self.errors = []
        for number, path in enumerate(self.paths):
            if not path.exists():
                raise ConfigError(f"{path} does not exist")
            command = [*self._command(number, path), "--dump-all-plugins"]
            process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            output, said = await process.communicate()
            lines = said.decode(errors="replace").splitlines()
            if process.returncode:
                print("\n".join(lines), file=sys.stderr, flush=True)
                raise GatewrightError(f"the plugins in {path} can't be looked at; the message above says why")
            self.errors += [line for line in lines if line.startswith("plugin not loaded: ")]
            found = known_plugins(output, lambda name: name)
            self._first = self._first or {plugin.name for plugin in found}
            for plugin in found:
                known[plugin.name] = replace(plugin, socket=self._socket_of(number, plugin.name))
        if not known and not self.errors:
            self.errors = [f"no plugins yet in {', '.join(map(str, self.paths))}: save one, and it is loaded"]
        return list(known.values())

    @property
    def starts(self) -> list[Start]:
        """See `PluginServers`."""
        own = {
            "GATEWRIGHT_DIE_WITH_PARENT": "yes", "GATEWRIGHT_SOCKET_OWNER": str(os.getuid()),
            "GATEWRIGHT_LOG_FORMAT": "short", "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        environ = {**os.environ, **own, **self.environ}

        def start(command: list[str]) -> Start:
            return lambda: asyncio.create_subprocess_exec(*command, env=environ, start_new_session=True)

        return [start(self._command(number, path)) for number, path in enumerate(self.paths)]

    @property
    def watched(self) -> list[Path]:
        """See `PluginServers`."""
        return list(self.paths)

    @property
    def places(self) -> list[Path]:
        """See `PluginServers`."""
        return list(self.paths)

    async def reload(self) -> None:
        """See `PluginServers`."""
        for number, _ in enumerate(self.paths):
            control = f"{self.prefix}/server{number}.sock.control"
            status, result = await asyncio.to_thread(ask_json, control, "/reload", method="POST", timeout=100.0)
            if status != 200:
                raise GatewrightError(result.get("reason") or f"the plugin server answered {status}")


@dataclass(slots=True)
class ConfiguredServers:
    """The plugin servers of a `kong.conf`."""

    file: Path
    environ: Mapping[str, str]
    errors: Sequence[str] = ()

    def _read(self) -> list[PluginServer]:
        try:
            return read_conf(self.file.read_text())
        except OSError as error:
            raise ConfigError(f"{self.file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{self.file} is not text in UTF-8") from None
        except ConfigError as error:
            raise ConfigError(f"{self.file}: {error}") from None

    async def known(self) -> list[KnownPlugin]:
        """See `PluginServers`."""
        return list(await asyncio.gather(*map(query, self._read())))

    @property
    def starts(self) -> list[Start]:
        """See `PluginServers`."""

        def start(command: str) -> Start:
            environ = {**os.environ, **self.environ}
            return lambda: asyncio.create_subprocess_shell(f"exec {command}", env=environ, start_new_session=True)

        return [start(server.start_command) for server in self._read() if server.start_command]

    @property
    def watched(self) -> list[Path]:
        """See `PluginServers`."""
        return [self.file]

    @property
    def places(self) -> list[Path]:
        """See `PluginServers`."""
        return []  # their commands know

    async def reload(self) -> None:
        """What they serve is their own affair; what they say of it is asked anew."""
