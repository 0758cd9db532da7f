"""The lean path: are its Lua files where the gateway looks, of this version, and switched on.

APISIX up to 3.9 serves a route that names a plugin it doesn't know as if it weren't there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from gatewright.doctor.findings import Finding, good, problem
from gatewright.lua_files import lua_directory, lua_files
from gatewright.settings import Settings

__all__ = ["APISIX_PLUGINS", "KONG_PLUGINS", "check_files", "check_lean_on_apisix", "check_lean_on_kong", "uses_lean"]

APISIX_PLUGINS: Final = ("gatewright", "gatewright-after", "gatewright-response")
KONG_PLUGINS: Final = ("gatewright", "gatewright-response")
_UNGUARDED: Final = "APISIX up to 3.9 serves such routes unguarded, later ones don't load them"


def uses_lean(content: Mapping[str, Any]) -> bool:
    """Whether a `config.yaml` has anything of it."""
    return bool(set(APISIX_PLUGINS) & set(content.get("plugins") or ())) or "gatewright" in (
        content.get("plugin_attr") or ()
    )


def check_lean_on_apisix(file: Path, routes: Path | None, settings: Settings) -> Iterator[Finding]:
    """Look at a `config.yaml`, and at whether its plugins are those that routes name.

    Args:
        file: the gateway's configuration.
        routes: its `apisix.yaml`, in standalone mode.
        settings: the runner's.
    """
    content = _read(file)
    named = _named(_read(routes), set()) if routes is not None else set()
    if not named and not uses_lean(content):
        return
    listed = content.get("plugins")
    enabled = {name for name in APISIX_PLUGINS if name in (listed or ())}
    for name in sorted(named - enabled):
        yield problem(
            f"{routes}: a route names {name}, which the list `plugins` of {file} doesn't have: {_UNGUARDED}",
            f"add {name} to the list",
        )
    apisix = content.get("apisix")
    path = str(apisix.get("extra_lua_path") or "") if isinstance(apisix, Mapping) else ""
    yield from check_files(f"{file}: apisix.extra_lua_path", path, "gatewright apisix install DIR")
    attr = content.get("plugin_attr")
    own = attr.get("gatewright") if isinstance(attr, Mapping) else None
    address = str(own.get("address") or "") if isinstance(own, Mapping) else ""
    yield from _check_address(f"{file}: plugin_attr.gatewright.address", address, settings)
    if enabled:
        yield good(f"{file}: {', '.join(sorted(enabled))} enabled")


def check_lean_on_kong(file: Path, enabled: set[str] | None, text: str) -> Iterator[Finding]:
    """Look at the Lua plugins of a `kong.conf`, if it enables them.

    Args:
        file: the file.
        enabled: what its `plugins` names; `None` if it doesn't say.
        text: all of it.
    """
    if not set(KONG_PLUGINS) & (enabled or set()):
        return
    found = re.search(r"^\s*lua_package_path\s*=\s*(\S.*?)\s*$", text, re.MULTILINE)
    yield from check_files(f"{file}: lua_package_path", found[1] if found else "", "gatewright kong install DIR")


def check_files(where: str, path: str, command: str) -> Iterator[Finding]:
    """Look whether a Lua path leads to this version's files.

    Args:
        where: what is looked at, to tell it.
        path: patterns with `;` between them.
        command: installs the files.
    """
    patterns = [pattern for pattern in path.split(";") if "?" in pattern]
    wire = next((Path(each.replace("?", "gatewright/wire")) for each in patterns if _leads(each)), None)
    if wire is None:
        yield problem(
            f"{where} leads to no Lua files of Gatewright: {path or 'it is not set'}",
            f'{command}, and set it to "DIR/?.lua" (a node that this machine doesn\'t see: look there)',
        )
        return
    directory = wire.parent.parent
    differing = []
    for name in lua_files():
        try:
            same = (directory / name).read_bytes() == (lua_directory() / name).read_bytes()
        except OSError:
            same = False
        if not same:
            differing.append(str(name))
    if differing:
        yield problem(
            f"{where}: {directory} has files of another version: {', '.join(differing[:3])}"
            f"{f' and {len(differing) - 3} more' if len(differing) > 3 else ''}",
            f"{command}, and reload the gateway",
        )
    else:
        yield good(f"{where}: {directory} has this version's files")


def _leads(pattern: str) -> bool:
    try:
        return Path(pattern.replace("?", "gatewright/wire")).is_file()
    except OSError:
        return False


def _check_address(where: str, address: str, settings: Settings) -> Iterator[Finding]:
    wanted = (address or "unix:/tmp/gatewright.sock").removeprefix("unix:")
    if wanted == settings.listen.removeprefix("unix:"):
        yield good(f"{where} is where the runner listens")
    else:
        yield problem(
            f"{where} is {address or f'not set, so {wanted}'}; the runner is set to listen at {settings.listen}",
            f'address: "{settings.listen}"',
        )


def _read(file: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return {}  # others say so
    return content if isinstance(content, Mapping) else {}


def _named(content: Any, found: set[str]) -> set[str]:
    """Which of the plugins anything in a route file names."""
    if isinstance(content, list):
        for item in content:
            _named(item, found)
    elif isinstance(content, Mapping):
        plugins = content.get("plugins")
        if isinstance(plugins, Mapping):
            found.update(name for name in APISIX_PLUGINS if name in plugins)
        for value in content.values():
            _named(value, found)
    return found
