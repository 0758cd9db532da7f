"""What is told of the plugins that were found."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches

from gatewright.loggers import get_logger
from gatewright.runtime.discovery import Discovery
from gatewright.runtime.shipped import shipped_names
from gatewright.server.ipc.messages import PluginInfo

__all__ = ["log_plugins", "plugins_told"]


def plugins_told(discovery: Discovery) -> list[PluginInfo]:
    """The plugins found, in the words of the channel."""
    return [
        PluginInfo(name, list(found.plugin.phases()), found.source, found.version)
        for name, found in sorted(discovery.found.items())
    ]


def log_plugins(plugins: Sequence[PluginInfo], errors: Sequence[str], settled: Collection[str] = ()) -> None:
    """Say which plugins there are, and what could not be loaded.

    Args:
        plugins: those found.
        errors: what could not be loaded.
        settled: names of plugins that there are settings for.
    """
    log = get_logger("gatewright.server.loaded")
    for error in errors:
        log.error("plugin not loaded; routes that use it are refused", error=error)
    for plugin in plugins:
        log.info("plugin", name=plugin.name, phases=plugin.phases, source=plugin.source)
        if not plugin.phases:
            log.warning("plugin has no handler: define on_request or on_response", name=plugin.name)
        if plugin.name in shipped_names() and "gatewright.plugins" not in plugin.source:
            log.info("this plugin is used in place of the one of its name that comes along", name=plugin.name)
    names = [*(plugin.name for plugin in plugins), *shipped_names()]
    for name in settled:
        if name not in names:
            close = get_close_matches(name, names, 1)
            log.warning(
                "plugin_settings names a plugin that was not found: they have no effect", name=name,
                cure=f"did you mean {close[0]}?" if close else f"found: {', '.join(names) or 'none'}",
            )  # fmt: skip
    if not plugins:
        shipped = " ".join(sorted(shipped_names()))  # not with commas: what follows "api-key," would be blacked out
        log.warning(
            "no plugins of your own: routes can name only those that come along",
            cure="--plugins DIRECTORY", shipped=shipped,
        )  # fmt: skip
