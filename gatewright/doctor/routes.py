"""APISIX's route file: the plugins that it names, where it names them, and what it gives them."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from gatewright.doctor.code import place_of, what_fits
from gatewright.doctor.findings import Finding, good, plugin_meant, problem, warning
from gatewright.doctor.lean import APISIX_PLUGINS
from gatewright.errors import GatewrightError
from gatewright.plugin import Plugin
from gatewright.runtime.fitting import check_config
from gatewright.yaml_faults import yaml_fault

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
        content = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        yield problem(f"{file}: {error.strerror}", "name APISIX's route file (standalone mode)")
        return
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        yield problem(yaml_fault(file, error), "mend it, or name APISIX's route file (standalone mode)")
        return
    if needs_end and not text.rstrip().endswith("#END"):
        yield problem(f"{file}: its last line is not #END: APISIX takes no notice of it", "end the file with #END")
    entries = list(_entries(content, "?"))
    for where, phase, entry in entries:
        yield from _check_entry(file, where, phase, entry, plugins, others)
    astray = list(_astray(content, plugins.keys() - others.keys()))
    for line, name in astray:
        yield problem(
            f"{file}:{line}: {name} stands where APISIX looks for plugins of its own, and knows none of this name: "
            "APISIX before 3.18 lets requests pass without it", _misplaced(name), name,
        )  # fmt: skip
    if not entries and not astray:
        yield warning(f"{file}: no route uses a plugin", "add ext-plugin-pre-req, or gatewright, to a route")


def _check_entry(
    file: Path,
    where: str,
    phase: str,
    entry: Any,
    plugins: Mapping[str, type[Plugin]],
    others: Mapping[str, Callable[[], type[Plugin]]],
) -> Iterator[Finding]:
    line = entry.line if isinstance(entry, _Marked) else 0
    place = f"{file}{f':{line}' if line else ''}: {where}: {phase}"
    if phase in APISIX_PLUGINS and isinstance(entry, Mapping):
        entry = {"value": "{}", **entry}  # which ext-plugins want to see, as JSON text
        if isinstance(entry["value"], Mapping):
            entry["value"] = json.dumps(entry["value"], default=str)
    if not isinstance(entry, Mapping) or not {"name", "value"} <= set(entry):
        has = f"just {', '.join(map(str, entry))}" if isinstance(entry, Mapping) else type(entry).__name__
        yield problem(f"{place}: an entry of `conf` has a name and a value, not {has}", '{name: ..., value: "{}"}')
        return
    name, value = entry["name"], entry["value"]
    if not isinstance(name, str) or not isinstance(value, str):
        which, cure = ("value", "write the value as JSON text in quotes") if isinstance(name, str) else (
            "name", "write the name in quotes",
        )  # fmt: skip
        yield problem(f"{place}: {which} is a string, and this one is of type {type(entry[which]).__name__}", cure)
        return
    try:
        plugin = plugins[name] if name in plugins else others[name]()
    except KeyError:
        yield problem(
            f"{place} names plugin {name!r}, which was not found; found: {', '.join(sorted(plugins)) or 'none'} "
            "(and those that come along: `gatewright plugins`)",
            plugin_meant(name, {*plugins, *others}),
            name,
        )
        return
    except GatewrightError as error:
        yield problem(f"{place}: plugin {name}: {error}", "until then requests on this route are refused", name)
        return
    handler = _HANDLERS[phase]
    if handler not in plugin.phases() and not plugin.optional_phases:
        better = [other for other, wanted in _HANDLERS.items() if wanted in plugin.phases()]
        yield problem(
            f"{place}: plugin {name} has no {handler}: requests on this route are refused",
            f"name it under {' or '.join(better)}{_whose(plugin)}" if better else f"define {handler}{_whose(plugin)}",
            name,
        )
        return
    try:
        check_config(plugin, value)
    except GatewrightError as error:
        yield problem(
            f"{place}: plugin {name}: its value doesn't fit: {error}: requests on this route are refused",
            what_fits(plugin), name,
        )  # fmt: skip
        return
    yield good(f"{place}: plugin {name} is there, and its value fits")


def _misplaced(name: str) -> str:
    """Where a plugin of ours is named instead of among APISIX's own."""
    return f"plugins: {{ext-plugin-pre-req: {{conf: [{{name: {name}, value: '{{...}}'}}]}}}}"


def _whose(plugin: type[Plugin]) -> str:
    """Where a plugin's class is, if that is somebody's own file."""
    place = place_of(plugin)
    return f" ({place})" if place else ""


class _Marked(dict[str, Any]):
    """A mapping that knows its line."""

    line = 0


class _Loader(yaml.SafeLoader):
    """Gives mappings their lines."""

    def marked(self, node: yaml.MappingNode) -> _Marked:
        self.flatten_mapping(node)
        made = _Marked()
        made.update((str(key), value) for key, value in self.construct_mapping(node, deep=True).items())
        made.line = node.start_mark.line + 1
        return made


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.marked)


def _astray(content: Any, names: Container[str]) -> Iterator[tuple[int, str]]:
    """Lines at which one of some plugins is named like one of APISIX's own."""
    if isinstance(content, list):
        for item in content:
            yield from _astray(item, names)
    elif isinstance(content, _Marked):
        for key, value in content.items():
            if key == "plugins" and isinstance(value, _Marked):
                yield from ((value.line, name) for name in value if name in names)
            else:
                yield from _astray(value, names)


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
