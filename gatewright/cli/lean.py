"""`gatewright apisix install` and its like: the lean path's Lua files for a gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import click

from gatewright.cli._failing import fail
from gatewright.cli._output import Group
from gatewright.lua_files import copy_lua_files
from gatewright.settings import Settings

__all__ = ["apisix", "install_for_kong", "nginx"]

_APISIX: Final = """\
# conf/config.yaml of each node. A list `plugins` replaces APISIX's own: add to the one that is there.
apisix:
  extra_lua_path: "{path}"
plugins:
  - gatewright
  - gatewright-after
  - gatewright-response
plugin_attr:
  gatewright:
    address: {address}
"""
_KONG: Final = """\
# kong.conf of each node
lua_package_path = {path};;
plugins = bundled,gatewright,gatewright-response
"""
_NGINX: Final = """\
# in the http block of nginx.conf
lua_package_path "{path};;";
init_by_lua_block {{
    gatewright = require("gatewright.nginx").new({{ address = "{address}" }})
    shop = gatewright:chain("shop", {{ {{ "greet", '{{"greeting": "hi"}}' }} }})
}}
# in a location
access_by_lua_block {{ shop:access() }}
"""
_DIRECTORY = click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="print JSON: the files, and what belongs where as text")
_ADDRESS = click.option(
    "--address", default=Settings().listen, show_default=True, help="where the runner listens: unix:/path or host:port"
)


@click.group(cls=Group)
def apisix() -> None:
    """Tell APISIX of the lean path."""


@click.group(cls=Group)
def nginx() -> None:
    """Tell nginx or OpenResty of the lean path."""


@apisix.command("install")
@_DIRECTORY
@_ADDRESS
@_JSON
def install_for_apisix(directory: Path, address: str, as_json: bool) -> None:
    """Copy the Lua plugins to DIRECTORY and print what belongs into config.yaml.

    Do so on every node, and ask `gatewright doctor --apisix-config FILE`: APISIX up to 3.9 lets requests pass on routes
    that name a plugin it doesn't have.
    """
    _install(directory, _APISIX, address, as_json=as_json)


@click.command("install")
@_DIRECTORY
@_JSON
def install_for_kong(directory: Path, as_json: bool) -> None:
    """Copy the Lua plugins to DIRECTORY and print what belongs into kong.conf."""
    _install(directory, _KONG, "", as_json=as_json)


@nginx.command("install")
@_DIRECTORY
@_ADDRESS
@_JSON
def install_for_nginx(directory: Path, address: str, as_json: bool) -> None:
    """Copy the Lua files to DIRECTORY and print what belongs into nginx.conf."""
    _install(directory, _NGINX, address, as_json=as_json)


def _install(directory: Path, text: str, address: str, *, as_json: bool) -> None:
    target = directory.resolve()
    try:
        files = copy_lua_files(target)
    except OSError as error:
        fail(f"{target}: the Lua files can't be copied there: {error.strerror}")
    text = text.format(path=f"{target}/?.lua", address=address)
    if as_json:
        click.echo(json.dumps({"directory": str(target), "files": [str(file) for file in files], "to_write": text}))
        return
    click.echo(f"{len(files)} Lua files are in {target} now. What is left to do:\n", err=True)
    click.echo(text, nl=False)
