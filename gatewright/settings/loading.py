"""Where settings come from: the command line, the environment, a file.

The environment may be nearly empty: APISIX's nginx passes `PATH` and what `nginx_config.envs` names on to the runner it
starts. It adds `APISIX_LISTEN_ADDRESS` and `APISIX_CONF_EXPIRE_TIME`; all else is `GATEWRIGHT_<NAME>`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import yaml

from gatewright.errors import ConfigError
from gatewright.settings.table import PluginSettings, Settings
from gatewright.yaml_faults import place_in, yaml_fault

__all__ = ["DEFAULT_FILE", "Effective", "describe_settings", "load_settings"]

DEFAULT_FILE = "gatewright.yaml"
_PREFIX = "GATEWRIGHT_"
_NO_SETTINGS = frozenset({"GATEWRIGHT_PURE_PYTHON"})
"""Variables that others look at: `built` does, when it is imported."""
_LEVEL_ALIASES = {"warn": "warning", "critical": "error", "fatal": "error"}


@dataclass(frozen=True, slots=True)
class Effective:
    """Settings together with where each value came from."""

    settings: Settings
    origins: Mapping[str, str]
    ignored: tuple[str, ...] = ()
    """Variables of the environment that look like settings, and are none."""


def load_settings(
    *,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    file: Path | None = None,
    defaults: Mapping[str, Any] | None = None,
    file_values: Mapping[str, Any] | None = None,
) -> Effective:
    """Merge the layers.

    Args:
        flags: values given on the command line; `None` or `()` means not given.
        environ: the environment.
        file: a YAML file, which must exist; without one, `gatewright.yaml` of the working directory if there.
        defaults: a front door's own defaults, below all else but above ours.
        file_values: values of a file in a front door's own format, already read (then `file` only names it).

    Raises:
        ConfigError: a value is of the wrong type or unknown; the message says which and where it came from.
    """
    types = get_type_hints(Settings)
    values: dict[str, Any] = {}
    origins = {item.name: "default" for item in fields(Settings)}

    def take(name: str, value: Any, origin: str) -> None:
        try:
            values[name] = _convert(name, value, types[name])
        except (msgspec.ValidationError, ValueError, TypeError) as error:
            raise ConfigError(f"{_place(origin, name, str(error))}: {name}: {error}") from None
        origins[name] = origin

    for name, value in (defaults or {}).items():
        take(name, value, "default")
    if file_values is None and file is None and Path(DEFAULT_FILE).is_file():
        file = Path(DEFAULT_FILE)
    if file_values is None and file is not None:
        file_values = _read_yaml(file)
    for name, value in (file_values or {}).items():
        if name not in types:
            near = get_close_matches(name, types, 1)
            cure = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(types))}"
            raise ConfigError(f"{_place(str(file), name)}: unknown setting {name!r}; {cure}")
        take(name, value, str(file) if file else "file")
    for item in fields(Settings):
        for variable in (item.metadata["env"], f"{_PREFIX}{item.name.upper()}"):
            if variable and environ.get(variable):
                take(item.name, environ[variable], f"environment {variable}")
    for name, value in flags.items():
        if value is not None and value != ():
            take(name, value, f"--{name.replace('_', '-')}")
    try:
        return Effective(Settings(**values), origins, _unknown_variables(environ))
    except ConfigError as error:
        name = str(error).partition(" ")[0]
        if origins.get(name, "default") == "default":
            raise
        raise ConfigError(f"{_place(origins[name], name)}: {error}") from None


def _place(origin: str, name: str, fault: str = "") -> str:
    """Where a setting is from, with the line if that's a file; in `plugin_settings` that of the plugin's."""
    if not Path(origin).is_file():
        return origin
    plugin, _, rest = fault.partition(": ")
    key = re.search(r"there is no '(.*?)'|at `\$\.(\w+)`", rest)
    own = f".{plugin}.{key[1] or key[2]}" if name == "plugin_settings" and key else ""
    return place_in(Path(origin), f"{name}{own}")


def _unknown_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Variables with our prefix that are no settings. Others may use it, too: Kubernetes for a Service of that name.

    Raises:
        ConfigError: one is surely a misspelt setting.
    """
    known = {f"{_PREFIX}{item.name.upper()}" for item in fields(Settings)} | _NO_SETTINGS
    unknown = sorted(name for name in environ if name.startswith(_PREFIX) and name not in known)
    for name in unknown:
        close = get_close_matches(name.removeprefix(_PREFIX), [each.removeprefix(_PREFIX) for each in known], 1, 0.8)
        if close:
            raise ConfigError(f"environment {name}: no such setting; did you mean {_PREFIX}{close[0]}?")
    return tuple(unknown)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(yaml_fault(file, error)) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected settings by name, got {type(content).__name__}")
    return content


def _convert(name: str, value: Any, kind: Any) -> Any:
    if name == "plugins" and isinstance(value, str):
        return tuple(part for part in value.split(":") if part)
    if name == "plugins" and isinstance(value, list | tuple):
        return tuple(str(part) for part in value)
    if name == "log_level" and isinstance(value, str):
        lowered = value.lower()
        return _LEVEL_ALIASES.get(lowered, lowered)
    if name == "socket_mode" and isinstance(value, int):  # YAML reads 0660 as octal
        return f"{value:04o}"
    if name == "plugin_settings":
        return _plugin_settings(msgspec.json.decode(value) if isinstance(value, str) else value)
    if name == "die_with_parent" and isinstance(value, bool):  # YAML reads yes and no as booleans
        return "yes" if value else "no"
    if name == "control" and value is False:  # and off
        return "off"
    if kind is str:
        return str(value)
    return msgspec.convert(value, type=kind, strict=False)


def _plugin_settings(value: Any) -> dict[str, PluginSettings]:
    if not isinstance(value, dict):
        raise TypeError("expected plugins' names, each with settings of its own")
    made = {}
    known = [each.name for each in msgspec.structs.fields(PluginSettings)]
    for plugin, own in value.items():
        for key in own if isinstance(own, dict) else ():
            if key not in known:
                near = get_close_matches(str(key), known, 1)
                cure = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
                raise ValueError(f"{plugin}: there is no {key!r}; {cure}")
        try:
            made[str(plugin)] = msgspec.convert(own, type=PluginSettings)
        except msgspec.ValidationError as error:
            raise ValueError(f"{plugin}: {error}") from None
    return made


def describe_settings(effective: Effective) -> list[tuple[str, Any, str, str]]:
    """Name, value, origin and explanation of each setting, in order of declaration."""
    rows = []
    for item in fields(Settings):
        value = getattr(effective.settings, item.name)
        if item.name == "plugin_settings":
            value = msgspec.to_builtins(dict(value))
        rows.append((item.name, value, effective.origins[item.name], item.metadata["text"]))
    return rows
