"""The routes of `gatewright dev`: those of a file, or one for all paths with every plugin on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gatewright.dev.apisix.routes import Routes, build_routes, load_routes
from gatewright.dev.survey import Survey
from gatewright.dev.target import Upstream

__all__ = ["made_up_routes", "read_routes"]


def read_routes(found: Survey, file: Path, upstream: Upstream) -> Routes:
    """The routes of a file.

    Raises:
        ConfigError: it is not of APISIX's form.
    """
    return load_routes(file, upstream, ours=[plugin["name"] for plugin in found.plugins])


def made_up_routes(found: Survey, confs: Mapping[str, str], upstream: Upstream, *, lean: bool = False) -> Routes:
    """Every plugin on every path, under the phases that it has. One whose configuration doesn't fit is there to refuse.

    Args:
        found: the plugins.
        confs: configurations by plugin; `{}` for the others. What is named here and wasn't found comes along, perhaps.
        upstream: where requests go.
        lean: over the lean path.
    """
    phases: dict[str, list[dict[str, str]]] = {"on_request": [], "on_response": []}
    names = {plugin["name"] for plugin in found.plugins}
    for plugin in found.plugins:
        for phase in plugin["phases"]:
            if phase in phases:
                phases[phase].append({"name": plugin["name"], "value": confs.get(plugin["name"], "{}")})
    for name, text in confs.items():
        if name not in names:
            phases["on_request"].append({"name": name, "value": text})
    places = ("gatewright", "gatewright-response") if lean else ("ext-plugin-pre-req", "ext-plugin-post-resp")
    plugins = {
        name: {"conf": phases[phase]}
        for name, phase in zip(places, ("on_request", "on_response"), strict=True)
        if phases[phase]
    }
    return build_routes({"routes": [{"id": "dev", "uri": "/*", "plugins": plugins}]}, default_upstream=upstream)
