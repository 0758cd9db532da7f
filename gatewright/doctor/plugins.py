"""The plugins, and what they run on."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

from gatewright._version import __version__
from gatewright.built import IN_C, PURE_PYTHON
from gatewright.doctor.findings import Finding, good, note, plugin_meant, problem, warning
from gatewright.runtime.discovery import Discovery
from gatewright.runtime.shipped import shipped_names

__all__ = ["check_environment", "check_plugin_settings", "check_plugins"]


def check_environment() -> Iterator[Finding]:
    """Look at Python and what is installed."""
    yield good(f"gatewright {__version__}, Python {platform.python_version()} ({sys.executable})")
    if importlib.util.find_spec("uvloop") is None:
        yield warning("uvloop is not installed: the runner is a fifth slower", "pip install uvloop")
    if not IN_C and not os.environ.get(PURE_PYTHON):
        yield note(
            "calls cost nearly twice what they could: the modules in C were not built",
            "have a C compiler and Python's headers there (Debian: gcc python3-dev) when gatewright is installed",
        )
    for package, rival in (("apisix", "apisix-runner"), ("kong_pdk", "kong-pdk")):
        if _is_installed(rival):
            yield problem(
                f"{rival} is installed, too: which `{package}` is imported is a matter of luck",
                f"pip uninstall {rival}",
            )


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def check_plugins(discovery: Discovery, places: Sequence[str]) -> Iterator[Finding]:
    """Look whether plugins load.

    Args:
        discovery: what was found.
        places: where there should be some.
    """
    for error in discovery.errors:
        yield problem(f"plugin not loaded: {error}", "mend it; routes that use it are refused with 503")
    for name, found in sorted(discovery.found.items()):
        if found.plugin.phases():
            yield good(f"plugin {name} ({', '.join(found.plugin.phases())}) from {found.source}")
        else:
            yield warning(f"plugin {name} from {found.source} has no handler", "define on_request or on_response")
    if not discovery.found and not discovery.errors:
        if places:
            yield problem("no plugins were found", "--plugins DIRECTORY, or `plugins:` in the settings file")
        else:
            yield note("no plugins of your own: routes can name only those that come along (--plugins adds yours)")


def check_plugin_settings(named: Iterable[str], discovery: Discovery) -> Iterator[Finding]:
    """Look whether there are the plugins that `plugin_settings` names."""
    for name in named:
        if name not in discovery.found and name not in shipped_names():
            yield warning(
                f"plugin_settings names {name!r}, which was not found: it has no effect",
                plugin_meant(name, (*discovery.found, *shipped_names())),
            )
