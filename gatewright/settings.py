"""Settings: flags over environment over file over defaults, in one frozen object that knows where each came from.

The environment may be nearly empty: APISIX's nginx passes `PATH` and what `nginx_config.envs` names on to the runner it
starts. It adds `APISIX_LISTEN_ADDRESS` and `APISIX_CONF_EXPIRE_TIME`; all else is `GATEWRIGHT_<NAME>`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_type_hints

import msgspec
import yaml

from gatewright.errors import ConfigError
from gatewright.yaml_faults import place_in, yaml_fault

__all__ = [
    "DEFAULT_FILE", "LOG_LEVELS", "Address", "PluginSettings", "Settings", "control_address", "load_settings",
    "parse_address", "worker_count",
]  # fmt: skip

DEFAULT_FILE = "gatewright.yaml"

MAX_FRAME = (1 << 24) - 1
_PREFIX = "GATEWRIGHT_"
_NO_SETTINGS = frozenset({"GATEWRIGHT_PURE_PYTHON"})
"""Variables that others look at: `gateways.apisix.built` does, when it is imported."""
LOG_LEVELS = ("debug", "info", "warning", "error")


class PluginSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the operator says about one plugin; `None` leaves it to the plugin."""

    on_error: Literal["fail", "skip"] | None = None
    timeout: float | None = None
    blocking: bool | None = None
    max_concurrent: int | None = None


def _setting(default: Any, text: str, *, env: str | None = None) -> Any:
    make = {"default_factory": lambda: default} if isinstance(default, dict) else {"default": default}
    return field(**make, metadata={"text": text, "env": env})


@dataclass(frozen=True, slots=True)
class Settings:
    """The effective settings of a runner."""

    listen: str = _setting(
        "unix:/tmp/gatewright.sock",
        "where to listen: unix:/path or tcp://host:port",
        env="APISIX_LISTEN_ADDRESS",
    )
    workers: str = _setting(
        "1", "worker processes: a number, or auto for one a core; 0: no supervisor, all in one process (to debug)"
    )
    plugins: tuple[str, ...] = _setting((), "directories, files or modules that hold plugins")
    installed_plugins: bool = _setting(True, "also use plugins that installed packages announce")
    conf_expire: float = _setting(3600.0, "the gateway's conf token cache time, seconds", env="APISIX_CONF_EXPIRE_TIME")
    socket_mode: str = _setting("0660", "permissions of the unix socket, octal")
    socket_owner: str = _setting("", "user who owns the socket, name or number; empty: find the gateway's")
    socket_group: str = _setting("", "group of the socket, name or number; empty: the runner's own")
    socket_open_directory: bool = _setting(
        False, "listen even in a directory where everybody may replace the socket (world-writable, no sticky bit)"
    )
    timeout: float = _setting(55.0, "seconds a handler may take, waiting included (APISIX gives up after 60)")
    hold_limit: float = _setting(0.1, "seconds a `def` handler may hold the loop before it is moved to a thread")
    threads: int = _setting(16, "threads for blocking handlers, in each worker")
    thread_queue: int = _setting(256, "blocking calls that may wait for a thread, in each worker; more are refused")
    max_frame: int = _setting(MAX_FRAME, "longest payload accepted, bytes")
    max_buffered: int = _setting(
        1 << 28, "input that may wait in each worker, bytes; beyond it the connections that hold most are closed"
    )
    max_configurations: int = _setting(
        20_000, "configurations known at once; beyond it those go first that were prepared and never used again"
    )
    max_connections: int = _setting(8192, "connections at once, in each worker; more are closed")
    max_calls: int = _setting(4096, "calls under way at once, in each worker; more are refused")
    max_lag: float = _setting(0.0, "seconds that the loop may lag before requests are refused; 0: any")
    max_requests: int = _setting(0, "calls after which a worker is replaced, up to a fifth more; 0: never")
    max_memory: int = _setting(0, "resident MiB beyond which a worker is replaced; 0: any")
    block_limit: float = _setting(1.0, "seconds that the loop may be blocked before the log shows where")
    start_timeout: float = _setting(60.0, "seconds that a worker may take to import plugins and set up configurations")
    stuck_limit: float = _setting(60.0, "seconds that the loop may be blocked before the worker is replaced; 0: any")
    stall_timeout: float = _setting(60.0, "seconds for the rest of a frame to come, or an answer to be taken")
    drain: float = _setting(0.8, "seconds that calls under way get at shutdown (APISIX kills after 1)")
    control: str = _setting(
        "auto", "unix socket for `gatewright status` and the like: unix:/path, auto: beside the listening one, or off"
    )
    metrics: str = _setting("", "where to serve /metrics, /healthz, /readyz and /status: host:port or unix:/path")
    die_with_parent: str = _setting(
        "auto", "end when the process that started us ends: yes, no, or auto: if a gateway started us"
    )
    tracing: str = _setting("", "OTLP endpoint to send spans to, e.g. http://localhost:4318; empty: none")
    record: str = _setting(
        "", "unix socket to tell of every call, unix:/path; `gatewright dev` sets it for its inspector; empty: none"
    )
    tracing_sample: float = _setting(1.0, "share of the traces that begin here to be recorded")
    apisix_version: str = _setting("auto", "version of the APISIX that asks, such as 3.9; auto: told by what it knows")
    response_failure: str = _setting(
        "refuse",
        "what a failure of on_response means with APISIX: refuse: the client gets a 503 of ours; gateway: APISIX's "
        "allow_degradation decides, and the upstream's body is sent in either case",
    )
    unsized_answers: str = _setting(
        "auto",
        "upstream answers without content-length, which make APISIX ask the upstream again if they are empty: read: "
        "look; pass: don't (they may be long); auto: look unless the request was a GET or the answer is a stream",
    )
    cut_headers: str = _setting(
        "ask",
        "requests with more headers than APISIX hands over: ask: names are asked for when looked up; refuse: 431",
    )
    log_level: str = _setting("info", "debug, info, warning or error")
    log_format: str = _setting(
        "auto",
        "console, json, auto: console on a terminal, or short: for who writes plugins, with their lines, and of the "
        "runner's only what is wrong",
    )
    log_file: str = _setting("", "file to log to instead of stderr")
    plugin_settings: Mapping[str, PluginSettings] = _setting(
        {}, "by plugin name: on_error, timeout, blocking, max_concurrent"
    )

    def __post_init__(self) -> None:
        parse_address(self.listen)
        _check_workers(self.workers)
        if self.metrics:
            parse_address(self.metrics, "metrics")
        control = self.control not in ("auto", "off") and parse_address(self.control, "control")
        if control and not control.path:
            raise ConfigError(f"control is a unix socket, since it can change things: unix:/path, not {self.control!r}")
        if self.record and not parse_address(self.record).path:
            raise ConfigError(f"record is a unix socket, since secrets go through it: unix:/path, not {self.record!r}")
        _check_octal(self.socket_mode)
        for name, low in _LOWEST.items():
            value = getattr(self, name)
            if not value >= low:  # nor if it's no number at all
                raise ConfigError(f"{name} must be at least {low:g}, not {value:g}")
            if isinstance(value, float) and value > _HIGHEST:
                raise ConfigError(f"{name} can be at most {_HIGHEST:g}, not {value:g}")
        for plugin, own in self.plugin_settings.items():
            if own.timeout is not None and not 0 < own.timeout <= _HIGHEST:
                raise ConfigError(f"the timeout of {plugin!r} is a number of seconds, not {own.timeout:g}")
            if own.max_concurrent is not None and own.max_concurrent < 1:
                raise ConfigError(f"max_concurrent of {plugin!r} is a whole number from 1 up, not {own.max_concurrent}")
        if self.max_frame > MAX_FRAME:
            raise ConfigError(f"max_frame can be at most {MAX_FRAME} (three bytes of length), not {self.max_frame}")
        if not re.fullmatch(r"auto|\d+\.\d+(\.\d+)?", self.apisix_version):
            raise ConfigError(f"apisix_version is a version such as 3.9, or auto, not {self.apisix_version!r}")
        if self.max_buffered < self.max_frame:
            raise ConfigError(
                f"max_buffered ({self.max_buffered}) is less than max_frame ({self.max_frame}): "
                "a frame that is allowed would not fit; lower max_frame, too"
            )
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is one of {', '.join(allowed)}, not {getattr(self, name)!r}")


_HIGHEST = 1e9  # seconds
_LOWEST: Mapping[str, float] = {
    "conf_expire": 1, "timeout": 0.01, "hold_limit": 0.001, "threads": 1, "max_frame": 1024,
    "max_configurations": 1,
    "max_connections": 1, "max_calls": 1, "stall_timeout": 0.1, "drain": 0, "thread_queue": 0, "max_lag": 0,
    "max_requests": 0, "max_memory": 0, "block_limit": 0.01, "start_timeout": 1, "stuck_limit": 0, "tracing_sample": 0,
}  # fmt: skip
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "log_level": LOG_LEVELS,
    "log_format": ("auto", "console", "json", "short"),
    "die_with_parent": ("auto", "yes", "no"),
    "response_failure": ("refuse", "gateway"),
    "cut_headers": ("ask", "refuse"),
    "unsized_answers": ("auto", "read", "pass"),
}
_MAX_WORKERS = 512
_LEVEL_ALIASES = {"warn": "warning", "critical": "error", "fatal": "error"}


def _check_workers(workers: str) -> None:
    if workers != "auto" and not (workers.isdecimal() and int(workers) <= _MAX_WORKERS):
        raise ConfigError(f"workers is auto or a number from 0 to {_MAX_WORKERS}, not {workers!r}")


def _check_octal(mode: str) -> None:
    if not re.fullmatch(r"0?[0-7]{3}", mode):
        raise ConfigError(f"socket_mode is an octal number such as 0660, not {mode!r}")


def worker_count(settings: Settings) -> int:
    """How many workers: what is set, or one for each core that this process may use."""
    if settings.workers != "auto":
        return int(settings.workers)
    return max(len(os.sched_getaffinity(0)), 1) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def control_address(settings: Settings) -> Address | None:
    """Where the control socket is; `None` for nowhere (it's off, or there is no listening socket to be beside of)."""
    if settings.control == "off":
        return None
    if settings.control != "auto":
        return parse_address(settings.control)
    path = parse_address(settings.listen).path
    return Address(path=path + ".control") if path else None


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed listen address: a unix socket's path, or a TCP host and port."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"


def parse_address(text: str, name: str = "listen") -> Address:
    """Parse `unix:/path`, `/path`, `tcp://host:port` or `host:port`.

    Args:
        text: what to parse.
        name: the setting that it is, for the error.

    Raises:
        ConfigError: it is none of these.
    """
    rest = text.strip()
    if rest.startswith("unix:"):
        rest = rest.removeprefix("unix:")
        if rest.startswith("//"):
            rest = rest[2:]
        if rest:
            return Address(path=rest)
    elif rest.startswith(("/", "./", "../")):
        return Address(path=rest)
    else:
        match = re.fullmatch(r"(?:tcp:(?://)?)?(?:\[([0-9A-Fa-f:.]+)\]|([^:/\s\[\]]*)):(\d{1,5})", rest)
        if match and int(match[3]) <= 65535:
            return Address(host=match[1] or match[2] or "127.0.0.1", port=int(match[3]))
    raise ConfigError(f"{name} is unix:/path or tcp://host:port, with a port up to 65535, not {text!r}")


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
