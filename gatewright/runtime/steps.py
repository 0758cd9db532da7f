"""A step: one plugin of a chain with its configuration (how it is made: `building`)."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, Protocol

from greenlet import getcurrent

from gatewright.errors import (
    GatewrightError,
    OverloadedError,
    PluginError,
)
from gatewright.plugin import Plugin
from gatewright.runtime.stats import Tally, new_tally
from gatewright.runtime.threads import Home

__all__ = [
    "Around",
    "Limit",
    "Mode",
    "OnError",
    "PhaseHandler",
    "Policy",
    "State",
    "Step",
    "awaited",
    "check_has_run",
    "mode_of",
]

OnError = Literal["fail", "skip"]


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings for one plugin; `None` leaves a value to the plugin's class."""

    on_error: OnError | None = None
    timeout: float | None = None
    blocking: bool | None = None
    max_concurrent: int | None = None


class Mode(Enum):
    """How a handler is run."""

    DIRECT = "direct"
    COROUTINE = "coroutine"
    THREAD = "thread"
    GUARDED = "guarded"
    """One of the others (`Step.own_mode`), with a limit, something around it, or changes that may be taken back."""


class State(Enum):
    """Whether a step can be used."""

    NEW = "new"
    READY = "ready"
    BROKEN = "broken"
    SETUP_FAILED = "setup failed"


@dataclass(slots=True, eq=False)
class Limit:
    """How many calls may be in a plugin at once, in one worker. Entering raises `OverloadedError` if so many are.

    A call whose thread or task goes on past its deadline is in the plugin until that has ended.
    """

    most: int
    running: int = 0

    def __enter__(self) -> None:
        if self.running >= self.most:
            raise OverloadedError(f"{self.most} calls are in this plugin already (max_concurrent)")
        self.running += 1
        strand: Any = getcurrent()
        strand.lingering = None

    def __exit__(self, *_: object) -> None:
        strand: Any = getcurrent()
        lingering, strand.lingering = strand.lingering, None
        if lingering is None:
            self._leave()
        else:
            lingering.add_done_callback(self._leave)

    def _leave(self, _: object = None) -> None:
        self.running -= 1


@dataclass(slots=True, eq=False)
class PhaseHandler:
    """A handler of one of Kong's phases."""

    run: Callable[..., Any]
    mode: Mode
    tally: Tally
    takes_answer: bool = False
    """It's given request and response rather than Kong's object."""


@dataclass(slots=True, eq=False)
class Step:
    """One plugin of a chain, with its configuration."""

    name: str
    route: str
    on_error: OnError
    timeout: float
    plugin: Plugin | None = None
    make: Callable[[], Plugin] | None = field(default=None, repr=False)
    """Makes the plugin, where that is still to be done."""
    remake: Callable[[], Plugin] | None = field(default=None, repr=False)
    """As `make`, for when it has to be done again."""
    apart: bool = False
    """All of its code that is not `async def` runs in a thread."""
    wants_fresh_threads: bool = False
    """And each time in one that has run nothing before."""
    made_apart: bool = False
    """The plugin was made in one, too."""
    old: Plugin | None = None
    """An earlier instance, not torn down yet."""
    on_renewal: Callable[[], None] = field(default=lambda: None, repr=False)
    """Told that the plugin has to be made anew before the next call."""
    on_request: Callable[[Any], Any] | None = None
    on_response: Callable[[Any, Any], Any] | None = None
    request_mode: Mode = Mode.DIRECT
    response_mode: Mode = Mode.DIRECT
    phases: dict[str, PhaseHandler] = field(default_factory=dict, repr=False)
    limit: Limit | None = None
    home: Home = field(default_factory=Home, repr=False)
    optional_phases: bool = False
    around: Around | None = None
    own_mode: dict[str, Mode] = field(default_factory=dict, repr=False)
    state: State = State.NEW
    error: GatewrightError | None = None
    setup_tries: int = 0
    next_setup: float = 0.0
    setup_running: asyncio.Future[None] | None = field(default=None, repr=False)
    request_tally: Tally = field(default_factory=new_tally, repr=False)
    response_tally: Tally = field(default_factory=new_tally, repr=False)

    @property
    def after(self) -> PhaseHandler | None:
        """Its `on_log(request, response)`."""
        handler = self.phases.get("log")
        return handler if handler is not None and handler.takes_answer else None

    def handler(self, phase: str) -> Callable[..., Any] | None:
        """Its handler for a phase, `request`, `response` or (after the answer) `log`."""
        if phase == "log":
            after = self.after
            return after.run if after is not None else None
        return self.on_request if phase == "request" else self.on_response

    def counts_in(self, phase: str, called: Sequence[str] | None = None) -> bool:
        """Whether a call in this phase can't pass without it: with no handler, it is there to refuse.

        Args:
            phase: `request` or `response`.
            called: the phases that will be called: one for which there is a handler is enough.
        """
        if self.handler(phase) is not None or self.plugin is None:
            return True
        if self.optional_phases:
            return False
        return called is None or all(self.handler(other) is None for other in called)

    def is_async(self, phase: str) -> bool:
        """Whether its handler for a phase (`request` or `response`) is an `async def`."""
        mode = self.request_mode if phase == "request" else self.response_mode
        return self.own_mode.get(phase, mode) is Mode.COROUTINE

    @property
    def holds_the_loop(self) -> bool:
        """Some of its handlers run on the loop and are not `async def`."""
        modes = (self.request_mode, self.response_mode, *self.own_mode.values())
        return Mode.DIRECT in (*modes, *(handler.mode for handler in self.phases.values()))


class Around(Protocol):
    """Something that wants to be around every handler: tracing."""

    def function(self, step: Step, phase: str, call: Any, run: Callable[[], Any]) -> Any:
        """Run a `def` handler."""

    def coroutine(self, step: Step, phase: str, call: Any, run: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        """A coroutine that runs an `async def` handler."""


async def awaited(value: Awaitable[Any]) -> Any:
    """A coroutine for anything that can be awaited."""
    return await value


def check_has_run(result: Any) -> None:
    """See that a `def` did its work when it was called.

    Raises:
        PluginError: it only gave something that would do it, and nobody would: then everything would pass.
    """
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise PluginError("there is a `yield` in it, so calling it has run nothing: return, or await, instead")


def mode_of(handler: Callable[..., Any] | None, blocking: bool) -> Mode:
    """How a handler is run: as what it is, or in a thread."""
    if handler is None:
        return Mode.THREAD  # see `Chain._run_apart`
    if inspect.iscoroutinefunction(handler):
        return Mode.COROUTINE
    return Mode.THREAD if blocking else Mode.DIRECT
