"""APISIX's route file: the plugins that it names, where it names them, and what it gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import yaml

from gatewright.config import parse_config
from gatewright.doctor.findings import Finding, good, problem, warning
from gatewright.doctor.lean import APISIX_PLUGINS
from gatewright.errors import GatewrightError
from gatewright.plugin import Plugin
from gatewright.runtime.fitting import check_fields

__all__ = ["EXT_PLUGINS", "check_routes"]

EXT_PLUGINS: Final = ("ext-plugin-pre-req", "ext-plugin-post-req", "ext-plugin-post-resp")
_PHASES: Final = (*EXT_PLUGINS, *APISIX_PLUGINS)
_HANDLERS: Final = {name: "on_response" if name.endswith(("resp", "response")) else "on_request" for name in _PHASES}


def check_routes(
    file: Path,
    plugins: Mapping[str, type[Plugin]],
    others: Mapping[str, Callable[[], type[Plugin]]],
    *,
    needs_end: bool = True,
) -> Iterator[Finding]:
    """Look whether routes name plugins that there are, under phases that they have, with values that suit them.

    Args:
        file: an `apisix.yaml`.
        plugins: the plugins that were found, by name.
        others: those that are imported only if a route names them.
        needs_end: its last line has to be #END, as for APISIX itself.
    """
    try:
        text = file.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        yield problem(f"{file}: {error}", "name APISIX's route file (standalone mode)")
        return
    if needs_end and not text.rstrip().endswith("#END"):
        yield problem(f"{file}: its last line is not #END: APISIX takes no notice of it", "end the file with #END")
    entries = list(_entries(content, "?"))
    for where, phase, entry in entries:
        yield from _check_entry(file, where, phase, entry, plugins, others)
    if not entries:
        yield warning(f"{file}: no route uses a plugin", "add ext-plugin-pre-req, or gatewright, to a route")


def _check_entry(
    file: Path,
    where: str,
    phase: str,
    entry: Any,
    plugins: Mapping[str, type[Plugin]],
    others: Mapping[str, Callable[[], type[Plugin]]],
) -> Iterator[Finding]:
    place = f"{file}: {where}: {phase}"
    if phase in APISIX_PLUGINS and isinstance(entry, Mapping):
        entry = {"value": "{}", **entry}  # which ext-plugins want to see
    if not isinstance(entry, Mapping) or not {"name", "value"} <= set(entry):
        yield problem(f"{place}: an entry of `conf` has no name and value: {entry!r}", '{name: ..., value: "{}"}')
        return
    name, value = entry["name"], entry["value"]
    if not isinstance(name, str) or not isinstance(value, str):
        yield problem(f"{place}: name and value are strings: {entry!r}", "write the value as JSON text in quotes")
        return
    try:
        plugin = plugins[name] if name in plugins else others[name]()
    except KeyError:
        close = get_close_matches(name, sorted({*plugins, *others}), 1)
        yield problem(
            f"{place} names plugin {name!r}, which was not found; found: {', '.join(sorted(plugins)) or 'none'} "
            "(and those that come along: `gatewright plugins`)",
            f"did you mean {close[0]}?" if close else "correct the name, or add its directory with --plugins",
        )
        return
    except GatewrightError as error:
        yield problem(f"{place}: plugin {name}: {error}", "requests on this route are refused")
        return
    handler = _HANDLERS[phase]
    if handler not in plugin.phases() and not plugin.optional_phases:
        better = [other for other, wanted in _HANDLERS.items() if wanted in plugin.phases()]
        yield problem(
            f"{place}: plugin {name} has no {handler}: requests on this route are refused",
            f"name it under {' or '.join(better)}" if better else f"define {handler}",
        )
        return
    try:
        parse_config(plugin.Config, value)
        check_fields(plugin, value)
    except GatewrightError as error:
        yield problem(f"{place}: plugin {name}: its value doesn't fit: {error}", "requests on this route are refused")
        return
    yield good(f"{place}: plugin {name} is there, and its value fits")


def _entries(content: Any, where: str) -> Iterator[tuple[str, str, Any]]:
    """Where, under which ext-plugin, and what is named."""
    if isinstance(content, list):
        for number, item in enumerate(content, 1):
            own = f"{where} {number}" if isinstance(item, Mapping) and "id" not in item else where
            yield from _entries(item, own)
    elif isinstance(content, Mapping):
        where = f"{where if where != '?' else ''} {content['id']}".strip() if "id" in content else where
        for key, value in content.items():
            if key in _PHASES and isinstance(value, Mapping):
                yield from ((where, key, entry) for entry in value.get("conf") or [])
            else:
                yield from _entries(value, str(key).removesuffix("s") if isinstance(value, list) else where)
