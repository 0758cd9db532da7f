"""Plugins in kong-pdk's form: a module with `Schema`, `version`, `priority` and `class Plugin`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from gatewright.config import config_schema
from gatewright.errors import ConfigError, DiscoveryError
from gatewright.plugin import KONG_PHASES
from gatewright.plugin import Plugin as NativePlugin
from gatewright.runtime.discovery import (
    Discovery,
    Found,
    let_neighbours_import,
    load_file,
    loading,
    plugins_of_module,
)
from gatewright.runtime.kong_schema import faults
from gatewright.runtime.shipped import PREFIX, add_shipped

__all__ = ["KONGS_OWN", "adapt", "load_directory", "load_plugins"]


KONGS_OWN = frozenset((
    "aws-lambda", "basic-auth", "cors", "hmac-auth", "ip-restriction", "opentelemetry", "request-validator",
))  # fmt: skip
"""Plugins that come along whose names are those of Kong's own (constants.lua; `request-validator` is Enterprise's)."""
_POLICIES = ("blocking", "timeout", "on_error", "max_concurrent")


class _Adapter(NativePlugin):
    abstract = True
    thread_for_each_call = True
    """As there; told apart only by what keeps things by thread."""
    wrapped: type[Any]
    kong_schema: Sequence[Any] = ()

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        self.inner = self.wrapped(self.config)

    def phase_handlers(self) -> Mapping[str, Callable[[Any], Any]]:
        return {phase: getattr(self.inner, phase) for phase in self.kong_phases()}

    @classmethod
    def kong_phases(cls) -> tuple[str, ...]:
        return tuple(phase for phase in KONG_PHASES if callable(getattr(cls.wrapped, phase, None)))

    @classmethod
    def phases(cls) -> tuple[str, ...]:
        return cls.kong_phases()


def adapt(
    name: str, plugin: type[Any], *, version: str | None = None, priority: int = 0, schema: Sequence[Any] = ()
) -> type[NativePlugin]:
    """A plugin class of ours that stands for one of theirs.

    Args:
        name: what Kong calls it.
        plugin: the class, with a method for each phase; it may have `blocking`, `timeout`, `on_error` and
            `max_concurrent`, as plugins of ours do.
        version: as Kong wants it, three numbers.
        priority: plugins of a higher one run first.
        schema: Kong's fields of the configuration.

    Raises:
        ConfigError: one of these is not what Kong can take.
    """
    if issubclass(plugin, NativePlugin):
        return type(plugin.__name__, (plugin,), {"name": name})
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise ConfigError(f"priority is a whole number, not {priority!r}")
    _check_schema(schema)
    attributes = {
        "name": name,
        "wrapped": plugin,
        "version": str(version or ""),
        "priority": priority,
        "kong_schema": list(schema),
        "__module__": plugin.__module__,
        **{policy: getattr(plugin, policy) for policy in _POLICIES if hasattr(plugin, policy)},
    }
    return type(plugin.__name__, (_Adapter,), attributes)


def _check_schema(schema: Any) -> None:
    """See that a Schema is one: a list of fields, each a name with its attributes."""
    if not isinstance(schema, list | tuple):
        raise ConfigError(f"Schema is a list of fields, not {schema!r}")
    for field in schema:
        if not isinstance(field, dict) or not all(isinstance(attributes, dict) for attributes in field.values()):
            raise ConfigError(f'a field of Schema is written {{"name": {{"type": "string"}}}}, not {field!r}')
    try:
        json.dumps(schema)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Schema can't be told to Kong, which wants JSON: {error}") from None
    found = faults(schema)
    if found:
        raise ConfigError(f"Kong would not start with this Schema: {'; '.join(found)}")


_OF_PLUGINS = ("Plugin", "Schema", "version", "priority")
"""What a module of kong-pdk's form has; one with any of it means to be a plugin."""


def load_directory(directory: Path) -> Discovery:
    """All plugins of a directory, named after their files; one that can't be loaded does not keep others from it.

    Args:
        directory: the directory, or a single file.
    """
    discovery = Discovery()
    let_neighbours_import(directory if directory.is_dir() else directory.parent)
    for file in sorted(directory.glob("*.py")) if directory.is_dir() else [directory]:
        if file.name.startswith(("_", ".")):
            continue
        try:
            with loading(str(file)):
                module = load_file(file.resolve())
                try:
                    _take(module, file, discovery, alone=file == directory)
                except ConfigError as error:
                    raise DiscoveryError(f"{file}: {error}") from None
        except DiscoveryError as error:
            discovery.errors.append(error)
    return discovery


def load_plugins(directory: Path | None, shipped: Sequence[str] = ()) -> Discovery:
    """The plugins of a directory, and those that come along and are named.

    Args:
        directory: the directory, or a single file.
        shipped: names; one that the directory has, too, is the directory's.
    """
    discovery = load_directory(directory) if directory is not None else Discovery()
    taken = [name for name in shipped if name in KONGS_OWN and name not in discovery.found]
    for name in taken:
        discovery.errors.append(
            DiscoveryError(
                f"Kong has a plugin {name} of its own, and would take that one: say {PREFIX}{name}, there, too"
            )
        )
    add_shipped(discovery, tuple(name for name in shipped if name not in taken))
    return discovery


def _take(module: ModuleType, file: Path, discovery: Discovery, *, alone: bool) -> None:
    """Add what a file has of plugins; a file that has none, in a directory, is there for others to import."""
    plugin = getattr(module, "Plugin", None)
    if isinstance(plugin, type) and plugin is not NativePlugin:
        adapted = adapt(
            file.stem,
            plugin,
            version=getattr(module, "version", None),
            priority=getattr(module, "priority", 0),
            schema=getattr(module, "Schema", ()),
        )
        discovery.found[file.stem] = Found(adapted, str(file), str(getattr(module, "version", "")))
        return
    native = plugins_of_module(module)
    for each in native:
        try:
            config_schema(each.Config)
        except ConfigError as error:  # Kong couldn't be told of it, nor of the others that are served with it
            discovery.errors.append(DiscoveryError(f"{file}: {each.name}: its Config can't be used: {error}"))
        else:
            discovery.add(each, str(file))
    if not native and (alone or any(hasattr(module, name) for name in _OF_PLUGINS)):
        discovery.errors.append(DiscoveryError(f"{file}: neither a class Plugin nor one that is derived from Plugin"))
