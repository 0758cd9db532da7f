"""The lines of `kong.conf` that make plugin servers known: written for our own, read for anybody's.

A server's name gives its keys, with `-` as `_`; its socket and its start command have defaults, its query command has
none since Kong 3.9 (conf_loader/init.lua, `pluginserver_XXX_*`).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gatewright.errors import ConfigError

__all__ = [
    "DEFAULT_PREFIX", "NEEDS_START_COMMAND", "ONE_PLUGIN_SINCE", "PROTOBUF_REFUSES_SINCE", "PluginServer", "Version",
    "conf_lines", "read_conf", "read_version",
]  # fmt: skip

Version = tuple[int, int]
"""Of Kong: `(3, 4)`."""
ONE_PLUGIN_SINCE: Version = (3, 9)
"""From here on Kong takes the first plugin of a server's dump only (process.lua, `query_external_plugin_info`)."""
PROTOBUF_REFUSES_SINCE: Version = (3, 8)
"""From here on Kong answers 500 if it can't reach a plugin server over Protobuf; before, it lets the request pass, as
it does over MessagePack (pb_rpc.lua, `Rpc:handle_event`)."""
NEEDS_START_COMMAND: tuple[Version, Version] = (3, 1), (3, 4)
"""Between these two, Kong never calls a server that it does not start itself: it takes it for one that is not ready,
and lets the request pass without the plugin (plugin_servers/init.lua, `start` and `get_instance_id`)."""

DEFAULT_PREFIX = "/usr/local/kong"
"""Kong's own (kong.conf.default)."""


_SHARED = "gatewright"


@dataclass(frozen=True, slots=True)
class PluginServer:
    """A plugin server as Kong knows it.

    Attributes:
        name: from `pluginserver_names`.
        socket: path of its unix socket.
        start_command: what starts it; empty: somebody else does.
        query_command: what prints its plugin's information.
    """

    name: str
    socket: str
    start_command: str
    query_command: str


def conf_lines(
    names: Sequence[str],
    directory: Path | None,
    *,
    shipped: Sequence[str] = (),
    prefix: str,
    protocol: str = "msgpack",
    server: Sequence[str] = ("kong-pluginserver",),
    command: Sequence[str] = ("gatewright",),
    flags: Sequence[str] = (),
    version: Version = ONE_PLUGIN_SINCE,
) -> str:
    """The lines for a directory of plugins that one process serves.

    From Kong 3.9 on each plugin has a name, a socket and a query command; before, one plugin server has them all.

    Args:
        names: the plugins.
        directory: where they are.
        shipped: those of them that come along.
        prefix: Kong's prefix, for the sockets.
        protocol: a key of `PROTOCOLS`.
        server: the command that serves plugins.
        command: the command whose `kong dump` prints one's information.
        flags: more for the server.
        version: of Kong.
    """
    more = [] if protocol == "msgpack" else ["--protocol", protocol]
    prefix = prefix.rstrip("/")
    plugins = "plugins = bundled," + ",".join(names)
    place = ["-d", str(directory)] if directory is not None else []
    those = [*place, *(part for name in shipped for part in ("--plugin", name))]
    serve = [*server, *those, "-p", prefix]
    if version < ONE_PLUGIN_SINCE:
        key = f"pluginserver_{_SHARED}"
        lines = [
            plugins,
            f"pluginserver_names = {_SHARED}",
            f"{key}_socket = {prefix}/{_SHARED}.socket",
            f"{key}_start_cmd = {shlex.join([*serve, '--socket-name', f'{_SHARED}.socket', *more, *flags])}",
            f"{key}_query_cmd = {shlex.join([*server, *those, '--dump-all-plugins', *more])}",
        ]
        return "\n".join(lines) + "\n"
    start = [*serve, "--socket-per-plugin", *more, *flags]
    lines = [plugins, "pluginserver_names = " + ",".join(names)]
    for number, name in enumerate(names):
        key = f"pluginserver_{name.replace('-', '_')}"
        lines.append(f"{key}_socket = {prefix}/{name}.socket")
        if number == 0:  # one process serves all; Kong takes the others for managed by somebody else
            lines.append(f"{key}_start_cmd = {shlex.join(start)}")
        query = [*command, "kong", "dump", *place, *more, name]
        lines.append(f"{key}_query_cmd = {shlex.join(query)}")
    return "\n".join(lines) + "\n"


def read_version(text: str) -> Version:
    """A version of Kong.

    Args:
        text: such as `3.4`, `3.4.2` or `3.4.3.1-enterprise-edition`.

    Raises:
        ConfigError: it is none.
    """
    found = re.match(r"\s*v?(\d+)\.(\d+)", text)
    if found is None:
        raise ConfigError(f"not a version of Kong: {text!r}; write it as 3.4")
    return int(found[1]), int(found[2])


def read_conf(text: str) -> list[PluginServer]:
    """The plugin servers of a `kong.conf`.

    Raises:
        ConfigError: it names none, or one lacks its query command.
    """
    values: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not name.lstrip().startswith("#"):
            values[name.strip()] = value.partition(" #")[0].strip()
    prefix = values.get("prefix", DEFAULT_PREFIX).rstrip("/")
    servers = []
    for name in filter(None, (name.strip() for name in values.get("pluginserver_names", "").split(","))):
        key = f"pluginserver_{name.replace('-', '_')}"
        query = values.get(f"{key}_query_cmd", "")
        if not query:
            raise ConfigError(f"{key}_query_cmd is missing: Kong asks it what the plugin {name} is")
        servers.append(
            PluginServer(
                name, values.get(f"{key}_socket", f"{prefix}/{name}.socket"), values.get(f"{key}_start_cmd", ""), query
            )
        )
    if not servers:
        raise ConfigError("pluginserver_names is missing or empty: it names the plugin servers")
    return servers
