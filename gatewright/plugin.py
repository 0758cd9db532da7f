"""`Plugin`: the class that plugin authors subclass."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from difflib import get_close_matches
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, get_args, get_origin

from gatewright.config import parse_config

if TYPE_CHECKING:
    from typing_extensions import TypeVar, override

    from gatewright.http import Response

    C = TypeVar("C", default=Any)
    """The model of a plugin's configuration."""
else:
    from typing import TypeVar

    C = TypeVar("C")

    try:
        from typing import override
    except ImportError:  # before Python 3.12

        def override(method):
            """Mark a handler: a type checker then reports it if `Plugin` has none of that name."""
            return method


__all__ = ["HANDLERS", "KONG_PHASES", "PHASES", "Plugin", "kebab_case", "misspelt", "override", "takes_answer"]

PHASES = ("on_request", "on_response")
"""Handler names, in the order in which a request meets them."""

KONG_PHASES = ("certificate", "rewrite", "access", "response", "preread", "log")
"""Phases of Kong that a plugin server may have handlers for; `on_request` is `access`, `on_response` is `response`."""


HANDLERS = (*PHASES, *(f"on_{phase}" for phase in KONG_PHASES if phase not in ("access", "response")))
"""All names that handlers can have."""


def misspelt(names: Iterable[str]) -> dict[str, str]:
    """Names that were surely meant for handlers, with the handler that was meant."""
    meant = {}
    for name in names:
        if name not in HANDLERS and (close := get_close_matches(name, HANDLERS, n=1, cutoff=0.85)):
            meant[name] = close[0]
    return meant


def takes_answer(handler: object) -> bool:
    """Whether an `on_log` is given request and response; one with a single argument is given Kong's `kong` object."""
    if not callable(handler):
        return False
    parameters = inspect.signature(handler).parameters.values()
    given = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return len([each for each in given if each.name != "self"]) == 2


def kebab_case(name: str) -> str:
    """`JwtAuth` -> `jwt-auth`, `HTTPLogger` -> `http-logger`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_", "-", name).lower()


def _is_seconds(value: Any) -> bool:
    return value is None or (_is_number(value) and 0 < value <= _MOST_SECONDS)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0)


_MOST_SECONDS = 10**9

_ATTRIBUTES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("a str", lambda value: isinstance(value, str)),
    "version": ("a str", lambda value: isinstance(value, str) or (_is_number(value) and abs(value) < inf)),
    "priority": ("a number", lambda value: _is_number(value) and abs(value) < inf),
    "on_error": ('"fail" or "skip"', lambda value: value in ("fail", "skip")),
    "timeout": ("a number of seconds, or None", _is_seconds),
    "blocking": ("True or False", lambda value: isinstance(value, bool)),
    "optional_phases": ("True or False", lambda value: isinstance(value, bool)),
    "early_response": ("True or False", lambda value: isinstance(value, bool)),
    "unknown_fields": ('"refuse" or "ignore"', lambda value: value in ("refuse", "ignore")),
    "max_concurrent": ("a whole number from 1 up, or None", _is_count),
}


def _check_attributes(cls: type[Plugin]) -> None:
    """See that a class says what it means: `on_error = "Skip"` must not be taken for anything."""
    for name, (wanted, fits) in _ATTRIBUTES.items():
        value = getattr(cls, name)
        if not fits(value):
            raise TypeError(f"{cls.__qualname__}.{name} is {wanted}, not {value!r}")
    for name, meant in misspelt(name for name, value in cls.__dict__.items() if inspect.isfunction(value)).items():
        raise TypeError(f"{cls.__qualname__}.{name} would never be called: did you mean {meant}?")


def _model_given(cls: type[Any]) -> Any:
    """The `Model` of `class Greet(Plugin[Model])`; `None` where there is none."""
    for base in cls.__dict__.get("__orig_bases__", ()):
        origin = get_origin(base)
        if isinstance(origin, type) and issubclass(origin, Plugin):
            (model,) = get_args(base)
            return None if isinstance(model, TypeVar) or model is Any else model
    return None


class Plugin(Generic[C]):
    """A plugin. One instance lives for each configuration that a gateway hands over.

    Define one or both handlers, each `async def` or `def`:

    - `on_request(self, request)`: return `None` to go on (with the changes made to `request`), or a `Response` to
      answer the client at once. `def` handlers get a `SyncRequest`.
    - `on_response(self, request, response)`: change the upstream's answer in place, or return a `Response` to
      replace it. `def` handlers get a `SyncRequest` and a `SyncResponse`.

    - `on_log(self, request, response)`: after the client has its answer, over the lean path; nothing can be changed.
      On APISIX's `ext-plugin-*` only of requests that a plugin of the same chain answered.

    On Kong `on_request` runs in the phase access and `on_response` in response. `on_certificate`, `on_rewrite`,
    `on_preread` and `on_log(self, kong)` are for its other phases: they are given the `kong` object, and never called
    by APISIX.

    Attributes:
        name: what routes call the plugin; by default the class name in kebab-case.
        Config: the configuration's model (msgspec Struct, dataclass, TypedDict, pydantic model); none -> dict. In
            `class Greet(Plugin[Model])`, the same is said to type checkers, too: they know what `self.config` is.
        on_error: what an exception, a deadline or a bad configuration of this plugin means for the request: `"fail"`
            refuses it, `"skip"` goes on without this plugin. Settings can override it.
        timeout: seconds that a handler may take, waiting included; `None` leaves it to the settings.
        blocking: a `def` handler that sleeps, computes or does blocking I/O says so here and runs in a thread.
        max_concurrent: how many calls may be in this plugin at once, in each worker; more are refused at once. Settings
            can override it.
        optional_phases: with APISIX, a route may name the plugin under a phase that it has no handler for, and it does
            nothing there; unless a plugin says so, such calls are refused.
        unknown_fields: what a field of a configuration means that `Config` doesn't know: `"refuse"` or `"ignore"`. A
            pydantic model's own `extra` counts, too.
        early_response: `on_response` looks at nothing of the answer (status, headers, body), so it can be asked before
            the upstream is, which costs far less; over the lean path only.
        abstract: a base class for other plugins, not a plugin itself; not inherited.
        version: shown to operators; Kong wants one.
        priority: on Kong, plugins of a higher priority run first.
        config: this instance's parsed configuration.
        log: a logger that carries the plugin's name.
    """

    name: ClassVar[str] = ""
    Config: ClassVar[Any] = None
    on_error: ClassVar[Literal["fail", "skip"]] = "fail"
    timeout: ClassVar[float | None] = None
    blocking: ClassVar[bool] = False
    max_concurrent: ClassVar[int | None] = None
    optional_phases: ClassVar[bool] = False
    unknown_fields: ClassVar[Literal["refuse", "ignore"]] = "refuse"
    early_response: ClassVar[bool] = False
    abstract: ClassVar[bool] = True
    version: ClassVar[str] = ""
    priority: ClassVar[int] = 0

    config: C
    log: logging.Logger

    if TYPE_CHECKING:  # a plugin has those that it defines; this is what `override` looks at

        def on_request(self, request: Any, /) -> Response | Awaitable[Response | None] | None:
            """See above."""

        def on_response(self, request: Any, response: Any, /) -> Response | Awaitable[Response | None] | None:
            """See above."""

        def on_certificate(self, kong: Any, /) -> Any:
            """See above."""

        def on_rewrite(self, kong: Any, /) -> Any:
            """See above."""

        def on_preread(self, kong: Any, /) -> Any:
            """See above."""

        on_log: Callable[..., Any]
        """See above; it has one of two forms."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = kebab_case(cls.__name__)
        if "abstract" not in cls.__dict__:
            cls.abstract = False
        if "Config" not in cls.__dict__ and (model := _model_given(cls)) is not None:
            cls.Config = model
        _check_attributes(cls)

    def __init__(self, config: object = None) -> None:
        """Make an instance for one configuration.

        Args:
            config: JSON text, a mapping, or an instance of `Config`; `None` means `{}`.

        Raises:
            ConfigError: the configuration doesn't fit the model.
        """
        self.config = parse_config(type(self).Config, config)
        self.log = logging.getLogger(f"gatewright.plugin.{type(self).name}")

    async def setup(self) -> None:
        """Prepare what the handlers need (a connection pool, say). Runs before the first call; calls wait for it."""

    async def teardown(self) -> None:
        """Release what `setup` made. Runs when the configuration is no longer used and at shutdown."""

    def phase_handlers(self) -> Mapping[str, Callable[[Any], Any]]:
        """Handlers of Kong's other phases, by phase; each is given the `kong` object, as is usual there."""
        return {
            phase: handler
            for phase in KONG_PHASES
            if phase not in ("access", "response")
            and callable(handler := getattr(self, f"on_{phase}", None))
            and not (phase == "log" and takes_answer(handler))
        }

    @classmethod
    def kong_phases(cls) -> tuple[str, ...]:
        """The phases of Kong that this class has a handler for."""
        handlers = {"access": "on_request"}
        return tuple(
            phase for phase in KONG_PHASES if inspect.isfunction(getattr(cls, handlers.get(phase, f"on_{phase}"), None))
        )

    @classmethod
    def logs(cls) -> bool:
        """Whether this class has an `on_log(self, request, response)`."""
        handler = getattr(cls, "on_log", None)
        return inspect.isfunction(handler) and takes_answer(handler)

    @classmethod
    def phases(cls) -> tuple[str, ...]:
        """The names of the handlers that this class defines."""
        return tuple(phase for phase in PHASES if inspect.isfunction(getattr(cls, phase, None)))
