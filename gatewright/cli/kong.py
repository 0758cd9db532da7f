"""`gatewright kong`: what Kong has to be told of plugins."""

from __future__ import annotations

import json
import shutil
import sys
import sysconfig
from contextlib import redirect_stdout
from pathlib import Path

import click
import yaml

from gatewright.cli._failing import fail
from gatewright.cli._output import Group
from gatewright.cli.lean import install_for_kong
from gatewright.errors import ConfigError
from gatewright.gateways.kong.conf import DEFAULT_PREFIX, ONE_PLUGIN_SINCE, conf_lines, read_version
from gatewright.gateways.kong.dump import PROTOCOLS, dump, own_stdout, plugin_info
from gatewright.plugin import Plugin
from gatewright.runtime.discovery import Discovery
from gatewright.runtime.kong_modules import load_plugins
from gatewright.runtime.kong_schema import example
from gatewright.runtime.shipped import is_shipped, shipped_names

__all__ = ["kong"]

_DIRECTORY = click.option(
    "--directory", "-d", type=click.Path(exists=True, path_type=Path),
    help="where the plugins are: a directory, or a single file",
)  # fmt: skip
_SHIPPED = click.option(
    "--plugin", "shipped", multiple=True, metavar="NAME",
    help="a plugin that comes with Gatewright (repeatable), besides or instead of a directory",
)  # fmt: skip
_UPSTREAM = "http://127.0.0.1:5000"  # no port that Kong listens at itself
_PROTOCOL = click.option(
    "--protocol", type=click.Choice(sorted(PROTOCOLS)), default="msgpack", show_default=True, help="what to speak"
)


@click.group(cls=Group)
def kong() -> None:
    """Tell Kong of plugins: the lines for kong.conf, and what its query command has to print.

    Since 3.9 Kong takes one plugin from each plugin server it knows. One process can serve them all: each has a name, a
    query command and a socket of its own. Before, one plugin server has them all.
    """


kong.add_command(install_for_kong)


@kong.command("dump")
@_DIRECTORY
@_PROTOCOL
@click.argument("name")
def dump_command(directory: Path | None, protocol: str, name: str) -> None:
    """Print what Kong wants to know of the plugin NAME: JSON and nothing else, whatever plugins print.

    It is looked for in the directory, then among the plugins that come with Gatewright.
    """
    with own_stdout() as out:
        discovery = _load(directory, (name,) if is_shipped(name) else ())
        if name not in discovery.plugins:
            known = ", ".join(sorted({*discovery.plugins, *shipped_names()}))
            fail(f"there is no plugin {name!r}{f' in {directory}' if directory else ''}; there are: {known}")
        out.write(dump([discovery.plugins[name]], protocol))


@kong.command("conf")
@_DIRECTORY
@_SHIPPED
@_PROTOCOL
@click.option("--prefix", "-p", default=DEFAULT_PREFIX, show_default=True, help="Kong's prefix, for the socket")
@click.option("--kong-version", metavar="VERSION", help="what the lines are for  [default: 3.9 and later]")
@click.option("--declarative", is_flag=True, help="print a kong.yml that uses the plugins, instead")
@click.option("--upstream", default=_UPSTREAM, show_default=True, metavar="URL", help="the service in that kong.yml")
@click.option("--json", "as_json", is_flag=True, help="print JSON: the settings, or the kong.yml")
def conf(
    directory: Path | None, shipped: tuple[str, ...], protocol: str, prefix: str, kong_version: str | None,
    declarative: bool, upstream: str, as_json: bool,
) -> None:  # fmt: skip
    """Print the lines for kong.conf that make the plugins of a directory known, and those that come along.

    Exit codes: 0 they are printed, 2 there are none.
    """
    if directory is None and not shipped:
        fail("which plugins? -d DIRECTORY, or --plugin NAME for one that comes with Gatewright")
    try:
        version = read_version(kong_version) if kong_version else ONE_PLUGIN_SINCE
    except ConfigError as error:
        fail(str(error))
    with own_stdout(), redirect_stdout(sys.stderr):
        discovery = _load(directory, shipped, told=not as_json)
    plugins = discovery.plugins
    names = sorted(plugins)
    if not names:
        fail(f"there are no plugins in {directory}" if directory else "none of these plugins can be used")
    text = _declarative([plugins[name] for name in names], upstream) if declarative else conf_lines(
        names, directory.resolve() if directory else None, shipped=shipped, prefix=prefix, protocol=protocol,
        server=[_program("kong-pluginserver")], command=[_program("gatewright")], version=version,
    )  # fmt: skip
    if not as_json:
        click.echo(text, nl=False)
        return
    settings = dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line and not line.startswith("#"))
    what = {"declarative": yaml.safe_load(text)} if declarative else {"settings": settings}
    click.echo(json.dumps({**what, "errors": [str(error) for error in discovery.errors]}, indent=2))


def _load(directory: Path | None, shipped: tuple[str, ...], *, told: bool = True) -> Discovery:
    discovery = load_plugins(directory, shipped)
    for error in discovery.errors if told else ():
        click.echo(f"plugin not loaded: {error}", err=True)
    return discovery


def _program(name: str) -> str:
    return shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name) or f"{sys.prefix}/bin/{name}"


def _declarative(plugins: list[type[Plugin]], upstream: str) -> str:
    """A kong.yml; configurations have the fields that Kong asks for, with values to be replaced."""
    shown = []
    for plugin in plugins:
        fields = plugin_info(plugin)["Schema"]["fields"][0]["config"]["fields"]
        config = example(fields)
        shown.append(f"  - name: {plugin.name}\n    config: {json.dumps(config, ensure_ascii=False)}")
        if config:
            shown.append("    # the fields that must be there: write your own values")
    return (
        '_format_version: "3.0"\n'
        f"services:\n  - name: example\n    url: {json.dumps(upstream)}\n"
        "    routes:\n      - name: all\n        paths: [/]\n"
        "plugins:\n" + "\n".join(shown) + "\n"
    )
