"""Which settings there are, what each means, and what it may be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from gatewright.errors import ConfigError
from gatewright.settings.addresses import Address, parse_address
from gatewright.settings.processors import usable_processors

__all__ = ["LOG_LEVELS", "MAX_FRAME", "PluginSettings", "Settings", "control_address", "worker_count"]

MAX_FRAME = (1 << 24) - 1
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
        "1",
        "worker processes: a number, or auto: one a core it may use; 0: no supervisor, all in one process (to debug)",
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


def _check_workers(workers: str) -> None:
    if workers != "auto" and not (workers.isdecimal() and int(workers) <= _MAX_WORKERS):
        raise ConfigError(f"workers is auto or a number from 0 to {_MAX_WORKERS}, not {workers!r}")


def _check_octal(mode: str) -> None:
    if not re.fullmatch(r"0?[0-7]{3}", mode):
        raise ConfigError(f"socket_mode is an octal number such as 0660, not {mode!r}")


def worker_count(settings: Settings) -> int:
    """How many workers: what is set, or one for each processor that this process may use."""
    return usable_processors() if settings.workers == "auto" else int(settings.workers)


def control_address(settings: Settings) -> Address | None:
    """Where the control socket is; `None` for nowhere (it's off, or there is no listening socket to be beside of)."""
    if settings.control == "off":
        return None
    if settings.control != "auto":
        return parse_address(settings.control)
    path = parse_address(settings.listen).path
    return Address(path=path + ".control") if path else None
