"""Plugins that come with Gatewright: found by name, and imported only once a configuration names one.

A module of `gatewright.plugins` holds the plugin of its own name, with `-` for `_`: `rate_limit` has `rate-limit`. So
there is no table to keep, and whoever names none of them imports nothing.

Kong has plugins of its own of some of these names, and takes those. So each is known as `gatewright-NAME`, too.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from functools import cache

from gatewright.errors import ConfigError, DiscoveryError
from gatewright.plugin import Plugin
from gatewright.runtime.discovery import Discovery, import_failure

__all__ = ["PREFIX", "add_shipped", "is_shipped", "load_shipped", "shipped_names"]

PREFIX = "gatewright-"
"""What may stand before a name, so that it is nobody else's."""
_PACKAGE = "gatewright.plugins"


@cache
def shipped_names() -> frozenset[str]:
    """The names of the plugins that come along."""
    spec = importlib.util.find_spec(_PACKAGE)
    places = spec.submodule_search_locations if spec is not None else None
    found = pkgutil.iter_modules(places or ())
    return frozenset(module.name.replace("_", "-") for module in found if not module.name.startswith("_"))


def is_shipped(name: str) -> bool:
    """Whether a plugin of this name comes along, be it with `gatewright-` before it."""
    return name.removeprefix(PREFIX) in shipped_names()


def load_shipped(name: str) -> type[Plugin]:
    """Import the plugin of a name; may take as long as what it imports, so not in the loop's thread.

    Raises:
        ConfigError: it needs a package that is not installed; the message says what to install.
        DiscoveryError: there is none of this name, or it can't be imported.
    """
    if not is_shipped(name):
        raise DiscoveryError(f"no plugin {name!r} is shipped; there are: {', '.join(sorted(shipped_names()))}")
    own = name.removeprefix(PREFIX)
    source = f"{_PACKAGE}.{own.replace('-', '_')}"
    try:
        module = importlib.import_module(source)
    except (ConfigError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise import_failure(source, error) from error
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Plugin) and not value.abstract and value.name == own:
            if own == name:
                return value
            return type(value.__name__, (value,), {"name": name, "__module__": value.__module__})
    raise DiscoveryError(f"{source}: holds no plugin {own!r}")


def add_shipped(discovery: Discovery, names: tuple[str, ...]) -> None:
    """Import plugins that come along, for a gateway that has to be told of each beforehand."""
    for name in names:
        if name in discovery.found:
            continue  # somebody's own
        try:
            discovery.add(load_shipped(name), f"{_PACKAGE} (shipped)")
        except ConfigError as error:
            discovery.errors.append(DiscoveryError(str(error)))
        except DiscoveryError as error:
            discovery.errors.append(error)
