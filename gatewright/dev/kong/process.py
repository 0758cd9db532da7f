"""`gatewright dev` as Kong: plugin servers, the gateway before them and an upstream behind, in one command."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gatewright.dev.echo import EchoUpstream
from gatewright.dev.explaining import explaining
from gatewright.dev.front import Front, listening
from gatewright.dev.here import RunnerHere, leave_at_once, runner_here, settings_for_debugging
from gatewright.dev.inspector.facts import Facts
from gatewright.dev.inspector.session import inspecting
from gatewright.dev.kong.admin import KongAdmin
from gatewright.dev.kong.declarative import Declared, load_content, load_declarative, parse_declarative
from gatewright.dev.kong.facts import facts_of
from gatewright.dev.kong.gateway import NAME, KongGateway
from gatewright.dev.kong.plugins import KnownPlugin, Plugins, known_plugins, query
from gatewright.dev.kong.survey import findings_of, sources_of
from gatewright.dev.messages import Answer
from gatewright.dev.options import DevOptions
from gatewright.dev.processes import end, until_listening, until_stopped
from gatewright.dev.reload import watch
from gatewright.dev.target import upstream_of
from gatewright.errors import ConfigError, GatewrightError
from gatewright.gateways.kong.conf import PluginServer, read_conf
from gatewright.gateways.kong.dump import dump
from gatewright.observe.control import ask_json
from gatewright.runtime.discovery import Discovery
from gatewright.runtime.kong_modules import KONGS_OWN, load_plugins
from gatewright.runtime.shipped import is_shipped
from gatewright.server.drivers.kong.driver import plan

__all__ = ["is_declarative", "run_kong_dev"]

log = logging.getLogger("gatewright.dev")

_ECHO = "echo"
_ADMIN_PORT = 8001


def _shipped_in(declarative: Path | None) -> list[str]:
    """The plugins that come along and a declarative file names."""
    if declarative is None:
        return []
    named = {entry.name for entry in load_declarative(declarative).plugins}
    return sorted(name for name in named - KONGS_OWN if is_shipped(name))


def is_declarative(file: Path | None) -> bool:
    """Whether a file is in Kong's declarative format."""
    try:
        return file is not None and "_format_version" in file.read_text()
    except (OSError, UnicodeDecodeError):
        return False  # whoever reads it next says what is wrong with it


async def run_kong_dev(
    options: DevOptions,
    *,
    declarative: Path | None = None,
    conf: Path | None = None,
    protocol: str = "msgpack",
) -> int:
    """Run plugins behind a gateway that acts as Kong, until SIGINT or SIGTERM.

    Args:
        options: what is wanted: a plugin server for each of its paths; its upstream, or `echo` for the built-in one,
            stands in for every service's.
        declarative: a `kong.yml`; without it every plugin is applied to every path.
        conf: a `kong.conf` whose plugin servers are started, instead of any for `paths`.
        protocol: a key of `PROTOCOLS`, for plugin servers of our own.

    Returns:
        The exit code: 0 after a stop that was asked for, 1 if a plugin server ended by itself.

    Raises:
        GatewrightError: it could not be started; the message says why and what to do.
    """
    return await until_stopped(_run(options, declarative, conf, protocol), log_level=options.log_level)


async def _run(options: DevOptions, declarative: Path | None, conf: Path | None, protocol: str) -> int:
    upstream, host, port = options.upstream, options.host, options.port
    async with AsyncExitStack() as stack:
        prefix = tempfile.mkdtemp(prefix="gatewright-")
        if options.debug:
            leave_at_once(prefix)
        stack.callback(shutil.rmtree, prefix, ignore_errors=True)
        echo = EchoUpstream()
        await echo.start()
        stack.push_async_callback(echo.stop)
        shipped = _shipped_in(declarative) if conf is None else []
        inspection = await stack.enter_async_context(
            inspecting(options.inspect, prefix, {"name": "kong", "version": ""}, server_header=NAME, charset=False)
        )
        environ = inspection.environ
        servers: _Configured | _Own | _Here
        if conf is not None:
            servers = _Configured(conf, environ)
        elif options.debug:
            servers = await stack.enter_async_context(_here(options, prefix, protocol, shipped, environ))
        else:
            servers = _Own(options.paths, prefix, protocol, shipped, environ, options.log_level)
        known = await servers.known()
        target: tuple[str, int] | None = ("127.0.0.1", echo.port)
        if upstream and upstream != _ECHO:
            parsed = upstream_of(upstream)
            target = parsed.host, parsed.port
        elif declarative is not None and upstream is None:
            target = None  # where the services say
        current: Sequence[KnownPlugin] = known
        if options.admin and declarative is None:
            declared, plugins = Declared(), Plugins(known, Declared())
        else:
            declared, plugins = _configuration(declarative, known, options.confs)
        processes = [await start() for start in servers.starts]
        for process in processes:
            stack.push_async_callback(end, process)
        for plugin in known:
            await until_listening(processes[0] if processes else None, plugin.socket)

        blocked = [] if declarative is not None or options.admin else list(servers.errors)

        def why_blocked() -> list[str]:
            return blocked

        findings = _Findings()
        await findings.look(servers.places)
        gateway = KongGateway(
            declared, plugins, default_upstream=target,
            watch=lambda handler: explaining(
                inspection.watch(handler), inspection.inspector, why_blocked, findings.hints, inspection.url_of,
            ),
        )  # fmt: skip
        with listening(f"{host}:{port}", "--port"):
            await gateway.start(host, port)
        stack.push_async_callback(gateway.stop)

        def facts(known: Sequence[KnownPlugin]) -> Facts:
            return facts_of(known, gateway.declared, sources, host, gateway.port)

        sources = await sources_of(servers.places) if inspection.options.page else {}
        page = await inspection.show(facts(known))

        admin_port = 0
        if options.admin:
            content = load_content(declarative) if declarative is not None else {}

            def apply(new: Declared) -> None:
                nonlocal declared
                gateway.replace(new, Plugins(list(current), new))
                declared = new

            current = known
            admin = Front(
                KongAdmin(content, apply).handle, server_header=NAME, charset=False,
                refusal=lambda status: Answer(status, page=True),
            )  # fmt: skip
            with listening(f"{host}:{options.admin_port}", "--admin-port"):
                await admin.start_near(host, _ADMIN_PORT, options.admin_port)
            stack.push_async_callback(admin.stop)
            admin_port = admin.port

        async def reload() -> str:
            nonlocal current
            nonlocal blocked  # until the gateway has the plugins
            if blocked:
                await servers.known()
                if servers.errors:
                    blocked = list(servers.errors)
                    return "\n".join(blocked)
            await servers.reload()
            known = await servers.known()
            if declarative is None and servers.errors:
                raise GatewrightError(servers.errors[0])
            current = known
            if options.admin:
                gateway.replace(declared, Plugins(known, declared))
            else:
                gateway.replace(*_configuration(declarative, known, options.confs))
            blocked = []
            await findings.look(servers.places)
            if inspection.options.page:
                sources.update(await sources_of(servers.places))
                inspection.changed(facts(known))
            return f"reloaded: {', '.join(plugin.name for plugin in known)}"

        watching = asyncio.create_task(
            watch([*servers.watched, *([declarative] if declarative else [])], reload, whole=options.watched)
        )
        stack.callback(watching.cancel)
        _print_banner(known, plugins, gateway, host, declarative, upstream, protocol if conf is None else "", page)
        if admin_port:
            print(
                f"  admin     http://{host}:{admin_port}/  (services, routes, plugins, consumers, config)\n", flush=True
            )
        for line in why_blocked():
            print(line, file=sys.stderr, flush=True)
        if not processes:  # they are here, or
            await asyncio.Event().wait()  # somebody else looks after the plugin servers
        await asyncio.wait([asyncio.create_task(p.wait()) for p in processes], return_when=asyncio.FIRST_COMPLETED)
        print("a plugin server ended; its log above says why", file=sys.stderr)
        return 1


@dataclass(slots=True)
class _Findings:
    """What is wrong with the plugins' code: each told once."""

    found: list[dict[str, Any]] = field(default_factory=list)

    async def look(self, places: Sequence[Path]) -> None:
        """Look at the code as it is now, and tell what is new."""
        before, self.found = [each["text"] for each in self.found], await findings_of(places) if places else []
        for each in self.found:
            if each["text"] not in before:
                cure = f"\n  -> {each['cure']}" if each["cure"] else ""
                print(f"{each['level']}: {each['text']}{cure}", file=sys.stderr, flush=True)

    def hints(self, plugin: str) -> list[str]:
        """What was found about a plugin, and how it's mended."""
        own = [each for each in self.found if plugin and each["about"] == plugin]
        return [line for each in own for line in (each["text"], f"-> {each['cure']}")]


Start = Callable[[], Awaitable[asyncio.subprocess.Process]]


@dataclass(slots=True)
class _Own:
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
        return list(self.paths)

    @property
    def places(self) -> list[Path]:
        return list(self.paths)

    async def reload(self) -> None:
        for number, _ in enumerate(self.paths):
            control = f"{self.prefix}/server{number}.sock.control"
            status, result = await asyncio.to_thread(ask_json, control, "/reload", method="POST", timeout=100.0)
            if status != 200:
                raise GatewrightError(result.get("reason") or f"the plugin server answered {status}")


@dataclass(slots=True)
class _Configured:
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

    async def known(self) -> list[KnownPlugin]:
        return list(await asyncio.gather(*map(query, self._read())))

    @property
    def starts(self) -> list[Start]:
        def start(command: str) -> Start:
            environ = {**os.environ, **self.environ}
            return lambda: asyncio.create_subprocess_shell(f"exec {command}", env=environ, start_new_session=True)

        return [start(server.start_command) for server in self._read() if server.start_command]

    @property
    def watched(self) -> list[Path]:
        return [self.file]

    @property
    def places(self) -> list[Path]:
        return []  # their commands know

    async def reload(self) -> None:
        """What they serve is their own affair; what they say of it is asked anew."""


@dataclass(slots=True)
class _Here:
    """A plugin server in this process."""

    here: RunnerHere
    discovery: Discovery
    protocol: str
    socket: str
    paths: Sequence[Path]

    @property
    def places(self) -> list[Path]:
        return list(self.paths)

    @property
    def errors(self) -> list[str]:
        return [f"plugin not loaded: {error}" for error in self.discovery.errors]

    @property
    def starts(self) -> list[Start]:
        return []

    @property
    def watched(self) -> list[Path]:
        return list(self.paths)

    async def known(self) -> list[KnownPlugin]:
        output = dump(list(self.discovery.plugins.values()), self.protocol)
        return known_plugins(output, lambda _: self.socket)

    async def reload(self) -> None:
        self.discovery = self.here.reload()


@asynccontextmanager
async def _here(
    options: DevOptions, prefix: str, protocol: str, shipped: Sequence[str], environ: Mapping[str, str]
) -> AsyncIterator[_Here]:
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
        yield _Here(here, discover(), protocol, socket, paths)


def _configuration(
    file: Path | None, known: Sequence[KnownPlugin], confs: Mapping[str, str]
) -> tuple[Declared, Plugins]:
    if file is not None:
        declared = load_declarative(file)
    else:
        declared = parse_declarative(
            {
                "_format_version": "3.0",
                "services": [{"name": "dev", "url": "http://127.0.0.1", "routes": [{"name": "dev", "paths": ["/"]}]}],
                "plugins": [{"name": plugin.name, "config": _config_of(plugin.name, confs)} for plugin in known],
            }
        )
    try:
        plugins = Plugins(known, declared)
    except ConfigError as error:
        if file is not None:
            raise
        names = {f"plugins[{number}]": plugin.name for number, plugin in enumerate(known)}
        place, rest = str(error).partition(".")[::2]
        name = names.get(place, "NAME")
        raise ConfigError(
            f"{names.get(place, place)}.{rest}; give it: --conf {name}='{{...}}', or a kong.yml with --routes"
        ) from None
    for name in plugins.left_out:
        log.warning("the plugin %s is left out: no plugin server has it (Kong's own plugins are not here)", name)
    return declared, plugins


def _config_of(name: str, confs: Mapping[str, str]) -> Any:
    try:
        return json.loads(confs.get(name, "{}"))
    except ValueError as error:
        raise ConfigError(f"--conf {name}: not valid JSON: {error}") from None


def _print_banner(
    known: Sequence[KnownPlugin],
    plugins: Plugins,
    gateway: KongGateway,
    host: str,
    declarative: Path | None,
    upstream: str | None,
    protocol: str,
    page: str = "",
) -> None:
    width = max((len(plugin.name) for plugin in known), default=0)
    where = f"[{host}]" if ":" in host else host
    lines = ["", "Gatewright development gateway (behaves as Kong does; not for production)", ""]
    for plugin in known:
        unused = "" if plugins.uses(plugin.name) else "  (not used by any route)"
        lines.append(f"  plugin    {plugin.name:<{width}}  {', '.join(plugin.phases) or 'no phase'}{unused}")
        beyond = [phase for phase in plugin.phases if phase in ("certificate", "preread")]
        if beyond:
            lines.append(f"            {'':<{width}}  {', '.join(beyond)} never runs here: plain HTTP only")
    lines.append(f"  routes    {declarative or 'every plugin on every path, by priority'}")
    default = "where the services say" if declarative else "built in: echoes the request"
    lines.append(f"  upstream  {'built in: echoes the request' if upstream == _ECHO else upstream or default}")
    if protocol:
        lines.append(f"  protocol  {protocol}")
    url = f"http://{where}:{gateway.port}"
    lines += ["", f"Listening on {url}, reloads when files change, stop with Ctrl-C. Try:", ""]
    lines += [f"  curl -i {url}{gateway.try_path}", ""]
    lines += [f"See what becomes of each request: {page}", ""] if page else []
    print("\n".join(lines), flush=True)
