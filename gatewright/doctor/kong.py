"""Kong's side: the plugin servers that a `kong.conf` names, asked and dialled as Kong does it."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgpack

from gatewright.dev.kong.plugins import KnownPlugin, query_all
from gatewright.doctor.findings import Finding, good, note, problem, warning
from gatewright.doctor.lean import KONG_PLUGINS, check_lean_on_kong
from gatewright.doctor.sockets import Cures, Probe, check_control, check_socket
from gatewright.errors import GatewrightError
from gatewright.gateways.kong.conf import (
    NEEDS_START_COMMAND,
    ONE_PLUGIN_SINCE,
    PROTOBUF_REFUSES_SINCE,
    PluginServer,
    Version,
    read_conf,
    read_version,
)  # fmt: skip
from gatewright.gateways.kong.dump import PROTOCOLS
from gatewright.gateways.kong.messages import RPC_CALL
from gatewright.settings import Address

__all__ = ["check_kong"]

_ASK = RPC_CALL.encode({"get_plugin_names": {}})
_PROBES = {
    PROTOCOLS["msgpack"]: Probe(
        msgpack.packb([0, 1, "plugin.GetStatus", []]),
        lambda answer: answer[:2] == b"\x94\x01" and answer[3:] == b"\xc0",
    ),
    PROTOCOLS["protobuf"]: Probe(struct.pack("=I", len(_ASK)) + _ASK, lambda answer: answer[1:4] == b"\0\0\0"),
}


def check_kong(file: Path, gateway_user: str, version: str = "") -> Iterator[Finding]:
    """Look at a `kong.conf` and all that it names.

    Args:
        file: the file.
        gateway_user: who Kong's workers run as; by default found among the processes.
        version: Kong's; by default asked of the command `kong`, if that is there.
    """
    yield from _rival()
    try:
        text = file.read_text()
    except OSError as error:
        yield problem(f"{file}: {error.strerror}", "name Kong's configuration file, usually /etc/kong/kong.conf")
        return
    enabled = _enabled(text)
    yield from check_lean_on_kong(file, enabled, text)
    try:
        servers = read_conf(text)
    except GatewrightError as error:
        if set(KONG_PLUGINS) & (enabled or set()):
            return  # it needs none
        yield problem(f"{file}: {error}", "gatewright kong conf prints the lines for a directory of plugins")
        return
    try:
        kong = read_version(version or _installed_version())
    except GatewrightError:
        kong = None
    started = next((server.name for server in servers if server.start_command), "")
    for server in servers:
        yield from _start_command(server, kong, _along_with(server, servers))
        try:
            plugins = asyncio.run(query_all(server))
        except GatewrightError as error:
            yield problem(f"{server.name}: {error}", "Kong would not start; the command must print JSON alone")
            continue
        for plugin in plugins:
            yield good(f"{server.name}: {plugin.name} {plugin.version}, {', '.join(plugin.phases) or 'no phase'}")
            yield from _plugin(server, plugin, enabled, kong, is_started=bool(started))
        yield from _more_than_one(server, plugins, kong)
        protocol = plugins[0].protocol
        probe = _PROBES.get(protocol)
        if probe is None:
            yield problem(f"{server.name}: Kong does not know the protocol {protocol}", "MsgPack:1 or ProtoBuf:1")
            continue
        yield from check_socket(Address(path=server.socket), gateway_user, probe, _cures(server, started))
    seen = {str(path) for server in servers for path in Path(server.socket).parent.glob("*.control")}
    for control in sorted(seen):
        yield from check_control(control)


def _enabled(text: str) -> set[str] | None:
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and name.strip() == "plugins":
            return {each.strip() for each in value.partition(" #")[0].split(",")}
    return None


def _cures(server: PluginServer, started: str) -> Cures:
    """What helps where Kong starts a plugin server, this one or another of the file, and where nobody does."""
    key = f"pluginserver_{server.name.replace('-', '_')}"
    anew = f"kong restart; Kong's error log, at log_level = info, has what the start command of {started} says"
    by_hand = f"start the plugin server, or let Kong: {key}_start_cmd; gatewright kong conf prints the lines"
    return Cures(
        missing=anew if started else by_hand,
        stale=anew if started else by_hand,
        silent="Kong's error log, at log_level = info, says what keeps its workers from starting",
        other=f"another program has this path ({key}_socket), or the dump says another protocol than the server speaks",
        closed="GATEWRIGHT_SOCKET_OWNER={user} in the plugin server's environment, or nginx_user in kong.conf",
        unknown="--gateway-user kong",
    )


def _plugin(
    server: PluginServer, plugin: KnownPlugin, enabled: set[str] | None, kong: Version | None, *, is_started: bool
) -> Iterator[Finding]:
    if enabled is None or plugin.name not in enabled:
        yield problem(
            f"{server.name}: the plugin {plugin.name} is not enabled", f"plugins = bundled,{plugin.name} in kong.conf"
        )
    if not plugin.phases:
        yield warning(f"{plugin.name} has no phase: it never runs", "define access, or another phase's method")
    if plugin.protocol == PROTOCOLS["msgpack"]:
        tell = note if is_started else warning
        yield tell(
            f"{plugin.name} speaks MessagePack: Kong lets requests pass while its plugin server can't be reached"
            + (" (where Kong starts it, a keeper refuses them)" if is_started else ""),
            "--protocol protobuf for server and dump, if its methods do",
        )
    elif kong is not None and kong < PROTOBUF_REFUSES_SINCE and not is_started:
        yield warning(
            f"{plugin.name}: Kong {kong[0]}.{kong[1]} lets requests pass while its plugin server can't be reached",
            "let Kong start it (a keeper refuses them then), or take Kong 3.8 or later",
        )


def _installed_version() -> str:
    program = shutil.which("kong")
    if program is None:
        return ""
    run = subprocess.run(  # noqa: S603 - Kong's own command
        [program, "version"], capture_output=True, text=True, timeout=20, check=False
    )
    return run.stdout.strip()


def _more_than_one(server: PluginServer, plugins: Sequence[KnownPlugin], kong: Version | None) -> Iterator[Finding]:
    if len(plugins) > 1 and (kong is None or kong >= ONE_PLUGIN_SINCE):
        tell = warning if kong is None else problem
        yield tell(
            f"{server.name}: from 3.9 on Kong takes {plugins[0].name} alone of its {len(plugins)} plugins",
            "gatewright kong conf prints lines with a server for each plugin",
        )


def _along_with(server: PluginServer, servers: Sequence[PluginServer]) -> str:
    """Which other one's start command makes this one's socket, too."""
    folder = Path(server.socket).parent
    along = (
        other.name
        for other in servers
        if other is not server
        and "--socket-per-plugin" in shlex.split(other.start_command)
        and Path(other.socket).parent == folder
    )
    return next(along, "")


def _start_command(server: PluginServer, kong: Version | None, along_with: str) -> Iterator[Finding]:
    first, last = NEEDS_START_COMMAND
    if not server.start_command:
        if kong is not None and first <= kong <= last:
            yield problem(
                f"{server.name}: Kong {kong[0]}.{kong[1]} never calls a plugin server that it does not start: "
                "requests pass without its plugins",
                f"gatewright kong conf --kong-version {kong[0]}.{kong[1]}",
            )
            return
        starts = f"Kong starts it along with {along_with}" if along_with else "Kong does not start it"
        if kong is not None:
            yield note(f"{server.name}: {starts}{'' if along_with else '; somebody else has to'}")
        else:
            yield warning(
                f"{server.name}: {starts}; {'' if along_with else 'somebody else has to, and '}"
                "Kong 3.1 to 3.4 would never call it",
                "tell Kong's version with --gateway-version; gatewright kong conf --kong-version suits older ones",
            )
        return
    program = shlex.split(server.start_command)[0]
    if shutil.which(program) is None:
        yield problem(f"{server.name}: its start command's program is not there: {program}", "write its whole path")


def _rival() -> Iterator[Finding]:
    try:
        found = version("kong-pdk")
    except PackageNotFoundError:
        return
    yield problem(f"kong-pdk {found} is installed, too, under the same import name", "pip uninstall kong-pdk")
