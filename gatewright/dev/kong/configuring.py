"""What applies to which request: what a declarative file says, or every plugin on every path."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gatewright.dev.kong.declarative import Declared, load_declarative, parse_declarative
from gatewright.dev.kong.plugins import KnownPlugin, Plugins
from gatewright.errors import ConfigError
from gatewright.runtime.kong_modules import KONGS_OWN
from gatewright.runtime.shipped import is_shipped

__all__ = ["configuration", "is_declarative", "shipped_in"]

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


def configuration(
    file: Path | None, known: Sequence[KnownPlugin], confs: Mapping[str, str]
) -> tuple[Declared, Plugins]:
    """The configuration as it is now.

    Args:
        file: the declarative file, if there is one.
        known: the plugins that there are.
        confs: configurations as JSON text, by plugin, where there is no file.

    Raises:
        ConfigError: it is not valid; says where and why.
    """
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
