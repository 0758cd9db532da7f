"""A chain: the plugins of one configuration, in order, and the running of one call through them.

`Chain.run_request` and `Chain.run_response` are the hot path. They are ordinary straight-line code that runs inside a
strand (see `bridge`), so a handler may wait wherever it likes.

What a failure means is decided here and nowhere else: a step that raises, misses its deadline, is unknown or has an
invalid configuration refuses the call (`PluginError`), unless its policy is "skip".
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from time import perf_counter
from typing import Any, Final, Literal

from gatewright.errors import (
    CallRefusedError,
    ConfigError,
    DeadlineExceededError,
    GatewayClosedError,
    GatewrightError,
    OverloadedError,
    PluginError,
    UnknownPluginError,
)
from gatewright.http import Call, Request, Response, SyncRequest, SyncResponse
from gatewright.plugin import Plugin
from gatewright.runtime.bridge import Bridge, Strand
from gatewright.runtime.failures import FailureLog

__all__ = ["Chain", "ChainBuilder", "Policy", "Step"]

OnError = Literal["fail", "skip"]

_SETUP_RETRY: Final = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds between tries of a setup() that failed


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings for one plugin; `None` leaves a value to the plugin's class."""

    on_error: OnError | None = None
    timeout: float | None = None
    blocking: bool | None = None


class Mode(Enum):
    """How a handler is run."""

    DIRECT = "direct"
    COROUTINE = "coroutine"
    THREAD = "thread"


_DIRECT: Final = Mode.DIRECT
_COROUTINE: Final = Mode.COROUTINE


class State(Enum):
    """Whether a step can be used."""

    NEW = "new"
    READY = "ready"
    BROKEN = "broken"
    SETUP_FAILED = "setup failed"


@dataclass(slots=True, eq=False)
class Step:
    """One plugin of a chain, with its configuration."""

    name: str
    route: str
    on_error: OnError
    timeout: float
    plugin: Plugin | None = None
    on_request: Callable[[Any], Any] | None = None
    on_response: Callable[[Any, Any], Any] | None = None
    request_mode: Mode = Mode.DIRECT
    response_mode: Mode = Mode.DIRECT
    state: State = State.NEW
    error: GatewrightError | None = None
    setup_tries: int = 0
    next_setup: float = 0.0
    setup_running: asyncio.Future[None] | None = field(default=None, repr=False)

    def move_to_thread(self) -> None:
        """Run `def` handlers in a thread from now on."""
        if self.request_mode is Mode.DIRECT:
            self.request_mode = Mode.THREAD
        if self.response_mode is Mode.DIRECT:
            self.response_mode = Mode.THREAD


class Chain:
    """The steps of one configuration.

    Attributes:
        key: the gateway's key of the configuration, for logs.
        ready: every step is usable; set once `build` is done.
        last_used: the tick (see `confs`) of its last use.
    """

    def __init__(self, key: str, conf: Sequence[tuple[str, str]], builder: ChainBuilder) -> None:
        self.key = key
        self.steps: list[Step] = []
        self.request_steps: list[Step] = []
        self.response_steps: list[Step] = []
        self.ready = False
        self.last_used = 0
        self._conf: Sequence[tuple[str, str]] | None = conf
        self._builder = builder
        self._bridge = builder.bridge
        self._hold_limit = builder.hold_limit
        self._built: asyncio.Future[None] | None = None

    def build(self, *_: object) -> None:
        """Make the steps and set them up. Runs in a strand; later callers wait for the first."""
        if self._built is not None:
            if not self._built.done():
                self._bridge.wait_future(asyncio.shield(self._built))
        else:
            self._built = self._bridge.loop.create_future()
            try:
                conf, self._conf = self._conf or (), None  # configurations hold secrets: keep no second copy
                self.steps = [self._builder.make_step(self.key, name, text) for name, text in conf]
                self.request_steps = [s for s in self.steps if s.on_request is not None or s.state is State.BROKEN]
                self.response_steps = [s for s in self.steps if s.on_response is not None or s.state is State.BROKEN]
            finally:
                self._built.set_result(None)
        self._set_up()

    def _set_up(self) -> None:
        for step in self.steps:
            if step.state is State.NEW or step.state is State.SETUP_FAILED:
                self._builder.set_up(step)
        self.ready = all(step.state is State.READY for step in self.steps)

    def teardown(self, *_: object) -> None:
        """Release what the plugins hold. Runs in a strand."""
        for step in self.steps:
            if step.plugin is not None and step.state is State.READY:
                self._builder.tear_down(step)

    # --- the hot path

    def run_request(self, call: Call, strand: Strand) -> Response | None:
        """Run the request phase. Gives the answer to send to the client, or `None` to go on (see `call`).

        Args:
            call: what came in; the plugins' changes are in it afterwards.
            strand: the strand that this runs in.

        Raises:
            CallRefusedError: a step failed and its policy is to refuse the call; it has been logged.
        """
        if not self.ready:
            self.build()
        ready = self.ready
        bridge = self._bridge
        hold_limit = self._hold_limit
        for step in self.request_steps:
            strand.timeout = step.timeout
            strand.deadline = 0.0
            try:
                if not ready and step.state is not State.READY:
                    raise step.error or PluginError("not set up yet")
                handler = step.on_request
                mode = step.request_mode
                if mode is _DIRECT:
                    result = handler(SyncRequest(call))  # type: ignore[misc]  # request_steps have one
                elif mode is _COROUTINE:
                    result = bridge.run_coroutine(handler(Request(call)))  # type: ignore[misc]
                else:
                    result = bridge.run_blocking(lambda handler=handler: handler(SyncRequest(call)))  # type: ignore[misc]
                now = perf_counter()
                if now - strand.began > hold_limit:
                    self._held_the_loop(step, now - strand.began)
                strand.began = now
                if result is None:
                    continue
                response = self._response_of(result)
                if response is None:
                    continue
            except (Exception, SystemExit) as error:
                self._failed(step, error)
                continue
            return _with_earlier_headers(response, call)
        return None

    def run_response(self, call: Call, strand: Strand) -> Response | None:
        """Run the response phase. Gives an answer that replaces the upstream's, or `None` (changes are in `call`).

        Args:
            call: what came in; the plugins' changes are in it afterwards.
            strand: the strand that this runs in.

        Raises:
            CallRefusedError: a step failed and its policy is to refuse the call; it has been logged.
        """
        if not self.ready:
            self.build()
        ready = self.ready
        bridge = self._bridge
        hold_limit = self._hold_limit
        for step in self.response_steps:
            strand.timeout = step.timeout
            strand.deadline = 0.0
            try:
                if not ready and step.state is not State.READY:
                    raise step.error or PluginError("not set up yet")
                handler = step.on_response
                assert handler is not None  # noqa: S101 - response_steps have one
                mode = step.response_mode
                if mode is _COROUTINE:
                    result = bridge.run_coroutine(handler(Request(call), Response.of_call(call)))
                else:
                    arguments = SyncRequest(call), SyncResponse.of_call(call)
                    if mode is _DIRECT:
                        result = handler(*arguments)
                    else:
                        result = bridge.run_blocking(lambda h=handler, a=arguments: h(*a))  # type: ignore[misc]
                now = perf_counter()
                if now - strand.began > hold_limit:
                    self._held_the_loop(step, now - strand.began)
                strand.began = now
                if result is None:
                    continue
                response = self._response_of(result)
                if response is not None:
                    _replace_response(call, response)
            except (Exception, SystemExit) as error:
                self._failed(step, error)
        return None

    # --- what a result or a failure means

    def _response_of(self, result: Any) -> Response | None:
        if inspect.isawaitable(result):  # a `def` that wraps an `async def`
            result = self._bridge.run_coroutine(_awaited(result))
            if result is None:
                return None
        if isinstance(result, Response):
            return result
        raise PluginError(f"the handler returned {type(result).__name__}: return a Response, or None to go on")

    def _held_the_loop(self, step: Step, seconds: float) -> None:
        """A handler kept everybody waiting: say so, and keep a `def` handler from doing it again."""
        if Mode.DIRECT in (step.request_mode, step.response_mode):
            step.move_to_thread()
            cure = "it runs in a thread from now on; declare `blocking = True`"
        else:
            cure = "an `async def` handler must not block: await, or use a `def` handler with `blocking = True`"
        self._builder.failures.report(
            "plugin held the loop", plugin=step.name, route=self.key, seconds=round(seconds, 3), cure=cure
        )
        if seconds > step.timeout:
            raise DeadlineExceededError(f"took {seconds:.3g} s, its timeout is {step.timeout:g} s")

    def _failed(self, step: Step, error: BaseException) -> None:
        if isinstance(error, GatewayClosedError):
            raise error
        refused = step.on_error == "fail"
        expected = isinstance(error, UnknownPluginError | ConfigError | DeadlineExceededError | OverloadedError)
        if isinstance(error, DeadlineExceededError):
            what = "plugin missed its deadline"
        elif isinstance(error, UnknownPluginError):
            what = "plugin not found"
        elif isinstance(error, ConfigError):
            what = "plugin configuration is invalid"
        elif step.state is State.SETUP_FAILED:
            what = "plugin set-up failed"
        else:
            what = "plugin failed"
        self._builder.failures.report(
            f"{what}: request {'refused' if refused else 'goes on without it (on_error = skip)'}",
            plugin=step.name,
            route=self.key,
            error=error,
            traceback=not expected,
        )
        if refused:
            raise CallRefusedError(f"{what}: {step.name}") from error


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def _with_earlier_headers(response: Response, call: Call) -> Response:
    """Let response headers that earlier plugins asked for reach the client on a stop too."""
    earlier = call.seen_response_headers
    if earlier is not None:
        for name, values in earlier.changes.items():
            if values and name not in response.headers:
                response.headers.set_all(name, values)
    return response


def _replace_response(call: Call, response: Response) -> None:
    """Put a plugin's own answer in the place of the upstream's, so that later plugins see it."""
    call.status_change = response.status
    call.response_headers.replace({})
    for name in response.headers:
        call.response_headers.set_all(name, response.headers.get_all(name))
    call.response_body = response.content


class ChainBuilder:
    """Makes chains out of configurations: looks plugins up, parses their configuration, sets them up."""

    def __init__(
        self,
        plugins: Mapping[str, type[Plugin]],
        bridge: Bridge,
        failures: FailureLog,
        *,
        policies: Mapping[str, Policy] | None = None,
        timeout: float = 55.0,
        hold_limit: float = 0.1,
    ) -> None:
        """Make a builder.

        Args:
            plugins: the plugin classes by name.
            bridge: where handlers run.
            failures: where failures are told.
            policies: settings by plugin name.
            timeout: seconds for plugins that don't say. APISIX itself gives up after 60.
            hold_limit: seconds that a handler may hold the loop before it's moved to a thread.
        """
        self.plugins = plugins
        self.bridge = bridge
        self.failures = failures
        self.hold_limit = hold_limit
        self._policies = policies or {}
        self._timeout = timeout

    def make_step(self, route: str, name: str, text: str) -> Step:
        """The step for one entry of a configuration; broken, with the reason, where it can't be used."""
        policy = self._policies.get(name, Policy())
        plugin_class = self.plugins.get(name)
        step = Step(
            name=name,
            route=route,
            on_error=policy.on_error or (plugin_class.on_error if plugin_class else "fail"),
            timeout=policy.timeout or (plugin_class and plugin_class.timeout) or self._timeout,
        )
        if plugin_class is None:
            known = ", ".join(sorted(self.plugins)) or "none"
            step.state = State.BROKEN
            step.error = UnknownPluginError(f"no plugin is called {name!r}; known plugins: {known}")
            self.failures.report("configuration names an unknown plugin", plugin=name, route=route, error=step.error)
            return step
        try:
            plugin = plugin_class(text)
        except Exception as error:
            step.state = State.BROKEN
            step.error = error if isinstance(error, ConfigError) else ConfigError(f"{type(error).__name__}: {error}")
            step.error.__cause__ = None if isinstance(error, ConfigError) else error
            self.failures.report(
                "plugin configuration is invalid",
                plugin=name,
                route=route,
                error=step.error,
                traceback=not isinstance(error, ConfigError),
            )
            return step
        blocking = plugin_class.blocking if policy.blocking is None else policy.blocking
        step.plugin = plugin
        step.on_request = getattr(plugin, "on_request", None)
        step.on_response = getattr(plugin, "on_response", None)
        step.request_mode = _mode(step.on_request, blocking)
        step.response_mode = _mode(step.on_response, blocking)
        if plugin_class.setup is Plugin.setup:
            step.state = State.READY
        return step

    def set_up(self, step: Step) -> None:
        """Run a step's `setup()` if it is due; a failure is kept and tried again later."""
        loop = self.bridge.loop
        if step.setup_running is not None:
            self.bridge.wait_future(asyncio.shield(step.setup_running))
            return
        if step.state is State.SETUP_FAILED and loop.time() < step.next_setup:
            return
        assert step.plugin is not None  # noqa: S101 - only steps with one are NEW
        strand = self.bridge.current()
        before = strand.timeout, strand.deadline
        strand.timeout, strand.deadline = step.timeout, 0.0
        step.setup_running = loop.create_future()
        try:
            self._call_hook(step.plugin.setup)
            step.state, step.error = State.READY, None
        except Exception as error:
            pause = _SETUP_RETRY[min(step.setup_tries, len(_SETUP_RETRY) - 1)]
            step.setup_tries += 1
            step.next_setup = loop.time() + pause
            step.state = State.SETUP_FAILED
            step.error = PluginError(f"setup() failed: {type(error).__name__}: {error}")
            step.error.__cause__ = error
            self.failures.report(
                f"plugin set-up failed, next try in {pause:g} s at the earliest",
                plugin=step.name,
                route=step.route,
                error=error,
                traceback=True,
            )
        finally:
            strand.timeout, strand.deadline = before
            step.setup_running.set_result(None)
            step.setup_running = None

    def tear_down(self, step: Step) -> None:
        """Run a step's `teardown()`; a failure is only told."""
        assert step.plugin is not None  # noqa: S101
        strand = self.bridge.current()
        strand.timeout, strand.deadline = step.timeout, 0.0
        step.state = State.NEW
        try:
            self._call_hook(step.plugin.teardown)
        except Exception as error:
            self.failures.report(
                "plugin teardown failed", plugin=step.name, route=step.route, error=error, traceback=True
            )

    def _call_hook(self, hook: Callable[[], Any]) -> None:
        result = hook()
        if inspect.isawaitable(result):
            self.bridge.run_coroutine(_awaited(result))


def _mode(handler: Callable[..., Any] | None, blocking: bool) -> Mode:
    if handler is None:
        return Mode.DIRECT
    if inspect.iscoroutinefunction(handler):
        return Mode.COROUTINE
    return Mode.THREAD if blocking else Mode.DIRECT
