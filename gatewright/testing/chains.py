"""What a test hands over as a plugin, and as its configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from gatewright.errors import ConfigError
from gatewright.plugin import Plugin
from gatewright.runtime.discovery import Discovery, as_plugins, discover
from gatewright.runtime.kong_modules import adapt, load_directory
from gatewright.runtime.shipped import is_shipped, load_shipped

__all__ = ["PluginLike", "chain_of", "config_text"]

PluginLike = type[Any] | ModuleType | str | Path
"""A plugin's class (of ours, or of an older runner's), a module in kong-pdk's form, a file that holds one plugin, or
the name of one that comes along."""


def chain_of(given: object, config: object, *, kong: bool) -> list[tuple[type[Plugin], str]]:
    """Plugins and the text of their configurations.

    Args:
        given: a plugin, or a sequence of plugins or of (plugin, configuration).
        config: the configuration, where one plugin is given.
        kong: whether files are in kong-pdk's form, if they can be.

    Raises:
        ConfigError: it's none of these.
    """
    if not isinstance(given, Sequence) or isinstance(given, str):
        return [(_plugin(given, kong=kong), config_text(config))]
    if config is not None:
        raise ConfigError("`config` is one plugin's; in a chain, give pairs: [(Plugin, config), ...]")
    chain = []
    for item in given:
        plugin, own = item if isinstance(item, tuple) else (item, None)
        chain.append((_plugin(plugin, kong=kong), config_text(own)))
    if not chain:
        raise ConfigError("a chain of no plugins: give one at least")
    return chain


def _plugin(given: object, *, kong: bool) -> type[Plugin]:
    if isinstance(given, type):
        found = as_plugins(given)
        if not found and any(callable(getattr(given, name, None)) for name in ("access", "response", "rewrite", "log")):
            return adapt(given.__name__.lower(), given)
        return _only(list(found), given.__qualname__)
    if isinstance(given, ModuleType):
        return adapt(
            given.__name__.rpartition(".")[2], given.Plugin, version=getattr(given, "version", None),
            priority=getattr(given, "priority", 0), schema=getattr(given, "Schema", ()),
        )  # fmt: skip
    if isinstance(given, str) and is_shipped(given):
        return load_shipped(given)
    if isinstance(given, str | Path):
        found_there: Discovery = load_directory(Path(given)) if kong else discover([given])
        if found_there.errors:
            raise found_there.errors[0]
        return _only(list(found_there.plugins.values()), str(given))
    raise ConfigError(f"{given!r} is no plugin: give a class, a module in kong-pdk's form, or a file")


def _only(found: list[type[Plugin]], where: str) -> type[Plugin]:
    if len(found) != 1:
        names = ", ".join(plugin.name for plugin in found) or "none"
        raise ConfigError(f"{where}: expected one plugin, found {names}; a base class says `abstract = True`")
    return found[0]


def config_text(config: object) -> str:
    """A configuration as the gateway hands it over: JSON text.

    Raises:
        ConfigError: it can't be written as JSON.
    """
    if config is None:
        return "{}"
    if isinstance(config, str):
        return config
    if isinstance(config, bytes):
        return config.decode("utf-8", "surrogateescape")
    if hasattr(config, "model_dump_json"):  # pydantic's
        return str(config.model_dump_json(by_alias=True))
    if not isinstance(config, Mapping | msgspec.Struct) and not dataclasses.is_dataclass(config):
        raise ConfigError(f"a configuration is a mapping, JSON text or an instance of Config, not {config!r}")
    try:
        return msgspec.json.encode(config).decode()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the configuration can't be written as JSON: {error}") from None
