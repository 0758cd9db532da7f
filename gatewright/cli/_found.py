"""Plugins for commands that look at them: of ours and of older runners, and modules in kong-pdk's form."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from difflib import get_close_matches
from pathlib import Path

from gatewright.errors import DiscoveryError, GatewrightError
from gatewright.gateways.kong.dump import own_stdout
from gatewright.runtime.discovery import Discovery, Found, discover
from gatewright.runtime.kong_modules import load_directory
from gatewright.runtime.shipped import load_shipped, shipped_names
from gatewright.settings import load_settings

__all__ = ["find", "places_or_settings", "plugin_named"]


def places_or_settings(places: Sequence[str]) -> tuple[str, ...]:
    """The places that were named, or else those of the settings (`gatewright.yaml`, the environment).

    Raises:
        ConfigError: the settings are invalid.
    """
    return tuple(places) or load_settings(flags={}, environ=os.environ).settings.plugins


def find(places: Sequence[str], *, installed: bool = False) -> Discovery:
    """All plugins in some places; modules in kong-pdk's form where there is nothing else in a file.

    What they print while they are loaded goes to standard error: the other output may be a machine's to read.
    """
    with own_stdout(), redirect_stdout(sys.stderr):
        return _find(places, installed=installed)


def _find(places: Sequence[str], *, installed: bool) -> Discovery:
    discovery = discover(places, installed=installed)
    read = {_whole(found.source) for found in discovery.found.values()}
    broken = " ".join(str(error) for error in discovery.errors)
    for place in places:
        path = Path(place)
        if not path.exists():
            continue
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            if file.name.startswith(("_", ".")) or _whole(file) in read or str(file) in broken:
                continue
            for found in load_directory(file).found.values():
                discovery.add(found.plugin, found.source)
            discovery.errors += [error for error in load_directory(file).errors if "neither a class" not in str(error)]
    return discovery


def _whole(source: str | Path) -> str:
    return str(Path(source).resolve())


def plugin_named(name: str, places: Sequence[str]) -> Found:
    """A plugin by its name, or the only one of a file.

    Raises:
        GatewrightError: there is none; the message says which there are.
    """
    if Path(name).is_file():
        found = find([name])
        if found.errors:
            raise found.errors[0]
        if len(found.found) == 1:
            return next(iter(found.found.values()))
        raise DiscoveryError(
            f"{name} holds {len(found.found) or 'no'} plugins; name one: {', '.join(sorted(found.found)) or '-'}"
        )
    discovery = find(places_or_settings(places), installed=True)
    if name in discovery.found:
        return discovery.found[name]
    if name in shipped_names():
        return Found(load_shipped(name), "comes along")
    if discovery.errors:
        raise GatewrightError(f"no plugin is called {name!r}, and some can't be loaded: {discovery.errors[0]}")
    close = get_close_matches(name, sorted({*discovery.found, *shipped_names()}), 1)
    if close:
        raise GatewrightError(
            f"no plugin is called {name!r}: did you mean {close[0]}? (`gatewright plugins` lists all)"
        )
    known = ", ".join(sorted({*discovery.found, *shipped_names()})) or "none"
    raise GatewrightError(f"no plugin is called {name!r}; there are: {known} (name more places with -p)")
