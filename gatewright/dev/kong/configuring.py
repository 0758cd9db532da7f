"""What applies to which request: what a declarative file says, or every plugin on every path."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gatewright.dev.kong.declarative import Declared, load_declarative, parse_declarative
from gatewright.dev.kong.lean_schema import LEAN_PLUGINS
from gatewright.dev.kong.plugins import KnownPlugin, Plugins
from gatewright.dev.survey import Survey
from gatewright.errors import ConfigError
from gatewright.runtime.kong_modules import KONGS_OWN
from gatewright.runtime.shipped import is_shipped
from gatewright.yaml_faults import place_in, placed

__all__ = ["declared_by", "is_declarative", "lean_everywhere", "plugins_of", "shipped_in"]

log = logging.getLogger("gatewright.dev")


def is_declarative(file: Path | None) -> bool:
    """Whether a file is in Kong's declarative format."""
    try:
        return file is not None and "_format_version" in file.read_text()
    except (OSError, UnicodeDecodeError):
        return False  # whoever reads it next says what is wrong with it


def shipped_in(declarative: Path | None) -> list[str]:
    """The plugins that come along and a declarative file names."""
    if declarative is None:
        return []
    named = {entry.name for entry in load_declarative(declarative).plugins}
    return sorted(name for name in named - KONGS_OWN if is_shipped(name))


def declared_by(file: Path | None, known: Sequence[KnownPlugin], confs: Mapping[str, str]) -> Declared:
    """What a declarative file says; without one, every plugin on every path.

    Args:
        file: the file.
        known: the plugins that there are.
        confs: configurations as JSON text, by plugin.

    Raises:
        ConfigError: it is not valid; says where and why.
    """
    if file is not None:
        return load_declarative(file)
    return _everywhere([{"name": plugin.name, "config": _config_of(plugin.name, confs)} for plugin in known])


def lean_everywhere(found: Survey, confs: Mapping[str, str]) -> Declared:
    """Every plugin on every path, over the lean path, under the phases that it has.

    Args:
        found: the plugins.
        confs: configurations as JSON text, by plugin. What is named here and wasn't found comes along, perhaps.
    """
    phases: dict[str, list[dict[str, str]]] = {"on_request": [], "on_response": []}
    names = {plugin["name"] for plugin in found.plugins}
    for plugin in found.plugins:
        for phase in plugin["phases"]:
            if phase in phases:
                phases[phase].append({"name": plugin["name"], "config": confs.get(plugin["name"], "{}")})
    for name, text in confs.items():
        if name not in names:
            phases["on_request"].append({"name": name, "config": text})
    places = zip(("gatewright", "gatewright-response"), phases.values(), strict=True)
    return _everywhere([{"name": name, "config": {"chain": chain}} for name, chain in places if chain])


def _everywhere(plugins: Sequence[Mapping[str, Any]]) -> Declared:
    service = {"name": "dev", "url": "http://127.0.0.1", "routes": [{"name": "dev", "paths": ["/"]}]}
    return parse_declarative({"_format_version": "3.0", "services": [service], "plugins": plugins})


def plugins_of(
    file: Path | None,
    known: Sequence[KnownPlugin],
    declared: Declared,
    faults: Sequence[str] = (),
    *,
    by_admin: bool = False,
) -> Plugins:
    """The configured plugins.

    Args:
        file: where they are configured, if not on every path.
        known: those of plugin servers.
        declared: where they are configured.
        faults: why others could not be loaded.
        by_admin: the Admin API was told so; whoever asked it hears what is wrong, in Kong's words.

    Raises:
        ConfigError: a configuration is not valid; says where and why.
    """
    try:
        plugins = Plugins(
            known, declared, others=LEAN_PLUGINS,
            place_of=lambda place: place if file is None else place_in(file, place), faults=faults,
        )  # fmt: skip
    except ConfigError as error:
        if by_admin:
            raise
        if file is not None:
            raise ConfigError(f"{placed(file, error)}{_what_fits(str(error), declared)}") from None
        names = {f"plugins[{number}]": plugin.name for number, plugin in enumerate(known)}
        place, rest = str(error).partition(".")[::2]
        name = names.get(place, "NAME")
        raise ConfigError(
            f"{names.get(place, place)}.{rest}; give it: --conf {name}='{{...}}', or a kong.yml with --routes"
        ) from None
    for name in plugins.left_out:
        log.warning("the plugin %s is left out: Kong's own plugins are not here", name)
    for why in () if by_admin else plugins.missing.values():
        log.error("%s", why)
    return plugins


def _what_fits(fault: str, declared: Declared) -> str:
    """Where to read what a plugin's configuration may hold."""
    for entry in declared.plugins:
        if fault.startswith(f"{entry.where}.config"):
            return f"; what fits: gatewright schema {entry.name}"
    return ""


def _config_of(name: str, confs: Mapping[str, str]) -> Any:
    try:
        return json.loads(confs.get(name, "{}"))
    except ValueError as error:
        raise ConfigError(f"--conf {name}: not valid JSON: {error}") from None
