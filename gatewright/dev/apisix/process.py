"""`gatewright dev`: a real runner, the gateway before it, an upstream behind, started and stopped together."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gatewright.dev.apisix.behaviour import BEHAVIOURS, Behaviour
from gatewright.dev.apisix.facts import facts_of
from gatewright.dev.apisix.gateway import SERVER_HEADER, DevGateway
from gatewright.dev.apisix.routes import Routes, build_routes, load_routes
from gatewright.dev.apisix.survey import Survey, survey
from gatewright.dev.echo import EchoUpstream
from gatewright.dev.inspector.session import NO_INSPECTION, InspectOptions, inspecting
from gatewright.dev.processes import end, until_listening, until_stopped
from gatewright.dev.reload import watch
from gatewright.dev.target import Upstream, upstream_of
from gatewright.errors import ConfigError, GatewrightError, ListenError
from gatewright.observe.control import ask_json

__all__ = ["end", "run_dev", "runner_process", "until_listening", "until_stopped", "upstream_of"]

_START_SECONDS = 20.0


@asynccontextmanager
async def runner_process(
    paths: Sequence[Path], listen: str, *, version: str = "3.9", environ: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A runner process that listens; stopped on leaving. Its log goes to our stderr.

    Args:
        paths: where the plugins are.
        listen: the address.
        version: the APISIX that it will talk to.
        environ: more for its environment.

    Raises:
        GatewrightError: it ended, or didn't listen in time.
    """
    arguments = [argument for path in paths for argument in ("--plugins", str(path))]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gatewright", "run", "--listen", listen, *arguments),
        *("--log-level", "warning", "--socket-owner", str(os.getuid()), "--die-with-parent", "yes"),
        env={
            "GATEWRIGHT_APISIX_VERSION": version,
            **os.environ,
            **(environ or {}),
        },  # 3.16 can't be told from what it does
        start_new_session=True,  # Ctrl-C is for us, who stop it in order
    )
    try:
        await until_listening(process, listen.removeprefix("unix:"))
        yield process
    finally:
        await end(process)


async def run_dev(
    paths: Sequence[Path],
    *,
    upstream: str | None = None,
    routes: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 9080,
    version: str = "3.9",
    inspect: InspectOptions = NO_INSPECTION,
) -> int:
    """Run plugins behind a development gateway until SIGINT or SIGTERM.

    Args:
        paths: where the plugins are.
        upstream: URL that requests go to; by default a built-in echo.
        routes: a route file in APISIX's standalone format; by default every plugin is applied to every path.
        host: address to listen on.
        port: port to listen on; 0 for any free one.
        version: which APISIX to behave as, a key of `BEHAVIOURS`.
        inspect: whether requests are followed.

    Returns:
        The exit code: 0 after a stop that was asked for, 1 if the runner ended by itself.

    Raises:
        GatewrightError: it could not be started; the message says why and what to do.
    """
    behaviour = BEHAVIOURS[version]
    return await until_stopped(_run_dev(paths, upstream, routes, host, port, behaviour, inspect))


async def _run_dev(
    paths: Sequence[Path],
    upstream: str | None,
    routes: Path | None,
    host: str,
    port: int,
    behaviour: Behaviour,
    inspect: InspectOptions,
) -> int:
    found = await survey(paths)
    for error in found.errors:
        print(f"plugin not loaded: {error}", file=sys.stderr)
    if not found.plugins and routes is None:
        raise ConfigError(f"no plugins found in {', '.join(map(str, paths))}: name a directory or file that holds some")
    echo = EchoUpstream()
    directory = tempfile.mkdtemp(prefix="gatewright-")
    listen = f"unix:{directory}/runner.sock"
    try:
        await echo.start()
        target = upstream_of(upstream) if upstream else Upstream("127.0.0.1", echo.port)
        table, left_out = _routes(found, routes, target)
        facts = {"name": "apisix", "version": behaviour.version}
        async with (
            inspecting(inspect, directory, facts, server_header=SERVER_HEADER, charset=True) as inspection,
            runner_process(paths, listen, version=behaviour.version, environ=inspection.environ) as process,
        ):
            gateway = DevGateway(table, listen, behaviour=behaviour, watch=inspection.watch)
            try:
                await gateway.start(host, port)
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else str(error)
                raise ListenError(f"{host}:{port}: {reason}; choose another one with --port") from None
            control = f"{directory}/runner.sock.control"

            def changed(found: Survey) -> None:
                inspection.changed(facts_of(found, gateway, host))

            page = await inspection.show(facts_of(found, gateway, host))
            reloader = _Reloader(paths, routes, target, gateway, control, found.errors, changed)
            watched = [*paths, *([routes] if routes is not None else [])]
            watching = asyncio.create_task(watch(watched, reloader.reload))
            try:
                _print_banner(found, gateway, host, upstream=upstream, file=routes, left_out=left_out, page=page)
                await process.wait()
                print(f"the runner ended with exit code {process.returncode}", file=sys.stderr)
                return 1
            finally:
                watching.cancel()
                await gateway.stop()
    finally:
        await echo.stop()
        shutil.rmtree(directory, ignore_errors=True)


@dataclass(slots=True)
class _Reloader:
    """Takes the files as they are now, or leaves all as it was."""

    paths: Sequence[Path]
    routes: Path | None
    upstream: Upstream
    gateway: DevGateway
    control: str
    known_errors: list[str]
    changed: Callable[[Survey], None]

    async def reload(self) -> str:
        """Reload; gives what to tell.

        Raises:
            GatewrightError: what is wrong with the files.
        """
        status, result = await asyncio.to_thread(ask_json, self.control, "/reload", method="POST", timeout=100.0)
        if status != 200:
            raise GatewrightError(result.get("reason") or f"the runner answered {status}")
        found = await survey(self.paths)
        for error in found.errors:
            if error not in self.known_errors:  # the file has changed again since the runner read it
                raise GatewrightError(error)
        self.known_errors = found.errors
        table, _ = _routes(found, self.routes, self.upstream)
        self.gateway.replace_routes(table)
        self.changed(found)
        return f"reloaded: {', '.join(plugin['name'] for plugin in found.plugins) or 'no plugins'}"


def _routes(found: Survey, file: Path | None, upstream: Upstream) -> tuple[Routes, dict[str, str]]:
    """The routes, and the plugins that could not be put on the route that is made up where there is no file."""
    if file is not None:
        return load_routes(file, upstream), {}
    left_out: dict[str, str] = {}
    phases: dict[str, list[dict[str, str]]] = {"on_request": [], "on_response": []}
    for plugin in found.plugins:
        if plugin["needs"]:
            left_out[plugin["name"]] = plugin["needs"]
            continue
        for phase in plugin["phases"]:
            phases[phase].append({"name": plugin["name"], "value": "{}"})
    plugins = {
        name: {"conf": phases[phase]}
        for name, phase in (("ext-plugin-pre-req", "on_request"), ("ext-plugin-post-resp", "on_response"))
        if phases[phase]
    }
    content = {"routes": [{"id": "dev", "uri": "/*", "plugins": plugins}]}
    return build_routes(content, default_upstream=upstream), left_out


def _print_banner(
    found: Survey,
    gateway: DevGateway,
    host: str,
    *,
    upstream: str | None,
    file: Path | None,
    left_out: dict[str, str],
    page: str = "",
) -> None:
    width = max((len(plugin["name"]) for plugin in found.plugins), default=0)
    where = f"[{host}]" if ":" in host else host
    lines = [
        "",
        f"Gatewright development gateway (behaves as Apache APISIX {gateway.version} does; not for production)",
        "",
    ]
    for plugin in found.plugins:
        name = plugin["name"]
        note = f"needs a configuration, so a route file: {left_out[name]}" if name in left_out else ""
        lines.append(f"  plugin    {name:<{width}}  {note or ', '.join(plugin['phases'])}")
    lines.append(f"  routes    {file or 'every plugin on every path, in the order above'}")
    lines.append(f"  upstream  {upstream or 'built in: echoes the request'}")
    lines += ["", f"Listening on http://{where}:{gateway.port}, reloads when files change, stop with Ctrl-C. Try:", ""]
    lines += [f"  curl -i http://{where}:{gateway.port}{_try_path(gateway)}", ""]
    lines += [f"See what becomes of each request: {page}", ""] if page else []
    print("\n".join(lines), flush=True)


def _try_path(gateway: DevGateway) -> str:
    uri = gateway.routes.routes[0].uris[0] if gateway.routes.routes else "/"
    return "/hello" if uri == "/*" else uri.replace("*", "")
