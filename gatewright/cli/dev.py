"""`gatewright dev`: runner, gateway and upstream in one command."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from gatewright.cli._failing import fail
from gatewright.cli._found import places_or_settings
from gatewright.errors import ConfigError, GatewrightError
from gatewright.gateways.kong.dump import PROTOCOLS, own_stdout
from gatewright.settings import LOG_LEVELS

__all__ = ["dev"]


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--upstream", metavar="URL",
    help="where requests go, whatever the routes say; echo: to a built-in upstream that echoes them; without it, where "
    "the routes say, or else there",
)  # fmt: skip
@click.option(
    "--routes", type=click.Path(path_type=Path),
    help="routes in APISIX's standalone format (apisix.yaml), or in Kong's declarative format (kong.yml)",
)  # fmt: skip
@click.option(
    "--gateway", type=click.Choice(["auto", "apisix", "kong"]), default="auto", show_default=True,
    help="whom to behave as; auto: Kong with routes in Kong's format or with --kong-conf, otherwise APISIX",
)  # fmt: skip
@click.option(
    "--apisix", "version", type=click.Choice([f"3.{minor}" for minor in range(9, 19)]), default="3.9",
    metavar="[3.9|...|3.18]", show_default=True,
    help="which APISIX to behave as: 3.10 reads 100 headers at most, 3.16 keeps the query, 3.17 reads HTTP/2 bodies",
)  # fmt: skip
@click.option(
    "--protocol", type=click.Choice([*sorted(PROTOCOLS), "lean"]), default="msgpack", show_default=True,
    help="what Kong and the plugin server speak; lean: without --routes, take the lean path",
)  # fmt: skip
@click.option(
    "--kong-conf", type=click.Path(path_type=Path),
    help="start the plugin servers of this kong.conf (pluginserver_*), instead of one for PATHS",
)  # fmt: skip
@click.option("--gateway-workers", type=click.IntRange(1, 64), default=1, show_default=True,
              help="act as APISIX with so many worker processes, each with connections of its own")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option("--port", type=click.IntRange(0, 65535), default=9080, show_default=True,
              help="port to listen on; 0 for any free one")  # fmt: skip
@click.option("--inspect-port", type=click.IntRange(0, 65535),
              help="port of the inspector's page  [default: 9081, or any that is free]")  # fmt: skip
@click.option("--no-inspect", is_flag=True, help="no inspector: nothing is kept of requests")
@click.option(
    "--record", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="write what becomes of each request to a file, for `gatewright inspect FILE`; secrets are blacked out",
)  # fmt: skip
@click.option("--conf", "confs", multiple=True, metavar="NAME=JSON",
              help="a plugin's configuration, where there are no routes: greet='{...}' (repeatable)")  # fmt: skip
@click.option("--watch", "watched", multiple=True, type=click.Path(path_type=Path), metavar="PATH",
              help="reload also when something changes there (repeatable)")  # fmt: skip
@click.option("--connect", default="", metavar="ADDRESS",
              help="a runner that runs already (unix:/path), instead of one for PATHS; APISIX only")  # fmt: skip
@click.option("--debug", is_flag=True,
              help="one process, no deadlines: breakpoint() works, Ctrl-C leaves at once")  # fmt: skip
@click.option(
    "--log-level", type=click.Choice(LOG_LEVELS), help="of what plugins log  [default: info; debug with --debug]"
)
@click.option("--admin", is_flag=True,
              help="serve the Admin API, too: at 9180 (and the gateway's port) as APISIX, at 8001 as Kong")  # fmt: skip
@click.option(
    "--admin-key", default="", help="what APISIX's Admin API wants as X-API-KEY  [default: a new one, printed]"
)
@click.option("--admin-port", type=click.IntRange(0, 65535), help="where the Admin API listens")
@click.option("--json", "as_json", is_flag=True,
              help="print JSON when it listens: where, and what there is; all else goes to standard error")  # fmt: skip
@click.option("--explain/--no-explain", default=True, show_default=True,
              help="tell in the answer why a call failed; a real gateway doesn't")  # fmt: skip
def dev(
    paths: tuple[Path, ...],
    upstream: str | None,
    routes: Path | None,
    gateway: str,
    version: str,
    protocol: str,
    kong_conf: Path | None,
    gateway_workers: int,
    host: str,
    port: int,
    inspect_port: int | None,
    no_inspect: bool,
    record: Path | None,
    confs: tuple[str, ...],
    watched: tuple[Path, ...],
    connect: str,
    debug: bool,
    log_level: str | None,
    explain: bool,
    admin: bool,
    admin_key: str,
    admin_port: int | None,
    as_json: bool,
) -> None:
    """Run the plugins in PATHS behind a development gateway that behaves as APISIX or as Kong does.

    Without PATHS, those of gatewright.yaml, or of this directory. Without --routes every plugin found is applied to
    every path. This gateway is for development only.

    Exit codes: 0 it was stopped, 1 the runner or a plugin server ended by itself, 2 it could not start.
    """
    try:
        from gatewright.dev.apisix.process import run_dev
        from gatewright.dev.inspector.session import InspectOptions
        from gatewright.dev.kong.configuring import is_declarative
        from gatewright.dev.kong.process import run_kong_dev
        from gatewright.dev.options import DevOptions
    except ImportError as error:
        fail(f"the development gateway needs {error.name}: pip install 'gatewright[dev-gateway]'")
    as_kong = gateway == "kong" or (gateway == "auto" and (kong_conf is not None or is_declarative(routes)))
    try:
        _refuse_contradictions(as_kong=as_kong)
        for path in paths:
            if not path.exists():
                raise ConfigError(f"{path} does not exist")
        for path in watched:
            if not path.exists():
                raise ConfigError(f"--watch {path}: there is no such file or directory")
        with _announcing(as_json=as_json) as announce:
            options = DevOptions(
                paths=list(paths) if paths or connect else _places(), upstream=upstream, host=host, port=port,
                inspect=InspectOptions(page=not no_inspect, port=inspect_port, record=record, follow=explain),
                log_level=log_level or ("debug" if debug else "info"), watched=watched, confs=_confs(confs),
                debug=debug, connect=connect, explain=explain, admin=admin or bool(admin_key), admin_port=admin_port,
                admin_key=admin_key or secrets.token_hex(16), announce=announce,
            )  # fmt: skip
            work = (
                run_kong_dev(options, declarative=routes, conf=kong_conf, protocol=protocol)
                if as_kong
                else run_dev(options, routes=routes, version=version, workers=gateway_workers, lean=protocol == "lean")
            )
            code = asyncio.run(work)
    except GatewrightError as error:
        fail(error)
    sys.exit(code)


@contextmanager
def _announcing(*, as_json: bool) -> Iterator[Callable[[str], None] | None]:
    """What tells a machine of the gateway; then all else, what plugins print too, goes to standard error."""
    if not as_json:
        yield None
        return
    with own_stdout() as out:

        def announce(line: str) -> None:
            out.write(f"{line}\n".encode())
            out.flush()

        yield announce


_OF_APISIX = ("version", "gateway_workers", "connect", "admin_key")
_TOGETHER = (
    ("connect", "debug", "a runner that runs already is debugged where it was started"),
    ("connect", "watched", "a runner that runs already is reloaded by `gatewright reload`"),
    ("kong_conf", "debug", "what kong.conf starts runs in processes of its own; name the plugins' directory instead"),
    ("routes", "confs", "the routes say how plugins are configured"),
    ("admin", "confs", "the routes say how plugins are configured"),
    ("no_inspect", "inspect_port", "there is no page"),
)


def _refuse_contradictions(*, as_kong: bool) -> None:
    """Tell of options of which one would have no effect.

    Raises:
        ConfigError: there are such.
    """
    context = click.get_current_context()
    flags = {
        each.name or "": each.opts[0] if each.opts[0].startswith("-") else "PATHS" for each in context.command.params
    }

    def given(name: str) -> bool:
        said = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        return said and context.params[name] not in ((), None)

    for name in _OF_APISIX:
        if as_kong and given(name):
            hint = "; for Kong, name its kong.conf: --kong-conf" if name == "connect" else ""
            raise ConfigError(f"{flags[name]} is for APISIX, and this is to be Kong{hint}")
    lean = context.params["protocol"] == "lean"
    if given("protocol") and not as_kong and not lean:
        raise ConfigError(f"--protocol {context.params['protocol']} is for Kong: --gateway kong")
    if lean and given("kong_conf"):
        raise ConfigError("--protocol lean asks a runner; --kong-conf starts plugin servers")
    if lean and given("routes"):
        raise ConfigError("--protocol lean is for the route that is made up; in --routes, name `gatewright`")
    for one, other, why in _TOGETHER:
        if given(one) and given(other):
            raise ConfigError(f"{flags[one]} and {flags[other]} don't go together: {why}")


def _places() -> list[Path]:
    """Where plugins are, where nobody says."""
    return [Path(place) for place in places_or_settings(())] or [Path()]


def _confs(given: tuple[str, ...]) -> dict[str, str]:
    confs = {}
    for each in given:
        name, equals, text = each.partition("=")
        if not equals or not name:
            raise ConfigError(f'--conf is NAME=JSON, such as greet=\'{{"greeting": "hi"}}\', not {each!r}')
        try:
            json.loads(text)
        except ValueError as error:
            raise ConfigError(f"--conf {name}: not valid JSON: {error}") from None
        confs[name] = text
    return confs
