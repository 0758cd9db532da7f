"""`gatewright kong`: what Kong has to be told of plugins."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

import click

from gatewright.cli._options import fail
from gatewright.gateways.kong.conf import DEFAULT_PREFIX, conf_lines
from gatewright.gateways.kong.dump import PROTOCOLS, dump, own_stdout
from gatewright.runtime.discovery import Discovery
from gatewright.runtime.kong_modules import load_directory

__all__ = ["kong"]

_DIRECTORY = click.option(
    "--directory", "-d", type=click.Path(exists=True, path_type=Path), required=True,
    help="where the plugins are: a directory, or a single file",
)  # fmt: skip
_PROTOCOL = click.option(
    "--protocol", type=click.Choice(sorted(PROTOCOLS)), default="msgpack", show_default=True, help="what to speak"
)


@click.group()
def kong() -> None:
    """Tell Kong of plugins: the lines for kong.conf, and what its query command has to print.

    Since 3.9 Kong takes one plugin from each plugin server it knows. One process can serve them all: each has a name, a
    query command and a socket of its own.
    """


@kong.command("dump")
@_DIRECTORY
@_PROTOCOL
@click.argument("name")
def dump_command(directory: Path, protocol: str, name: str) -> None:
    """Print what Kong wants to know of the plugin NAME: JSON and nothing else, whatever plugins print."""
    with own_stdout() as out:
        discovery = _load(directory)
        if name not in discovery.plugins:
            fail(f"there is no plugin {name!r} in {directory}; there are: {', '.join(sorted(discovery.plugins))}")
        out.write(dump([discovery.plugins[name]], protocol))


@kong.command("conf")
@_DIRECTORY
@_PROTOCOL
@click.option("--prefix", "-p", default=DEFAULT_PREFIX, show_default=True, help="Kong's prefix, for the socket")
@click.option("--declarative", is_flag=True, help="print a kong.yml that uses the plugins, instead")
def conf(directory: Path, protocol: str, prefix: str, declarative: bool) -> None:
    """Print the lines for kong.conf that make the plugins of a directory known."""
    with own_stdout() as out:
        names = sorted(_load(directory).plugins)
        if not names:
            fail(f"there are no plugins in {directory}")
        text = _declarative(names) if declarative else conf_lines(
            names, directory.resolve(), prefix=prefix, protocol=protocol,
            server=[_program("kong-pluginserver")], command=[_program("gatewright")],
        )  # fmt: skip
        out.write(text.encode())


def _load(directory: Path) -> Discovery:
    discovery = load_directory(directory)
    for error in discovery.errors:
        click.echo(f"plugin not loaded: {error}", err=True)
    return discovery


def _program(name: str) -> str:
    return shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name) or f"{sys.prefix}/bin/{name}"


def _declarative(names: list[str]) -> str:
    plugins = "\n".join(f"  - name: {name}\n    config: {{}}" for name in names)
    return (
        '_format_version: "3.0"\n'
        "services:\n  - name: example\n    url: http://127.0.0.1:8000\n"
        "    routes:\n      - name: all\n        paths: [/]\n"
        f"plugins:\n{plugins}\n"
    )
