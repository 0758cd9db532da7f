"""A chain: the plugins of one configuration, in order, and the running of one call through them.

`Chain.run_request` and `Chain.run_response` are the hot path. They are ordinary straight-line code that runs inside a
strand (see `bridge`), so a handler may wait wherever it likes.

What a failure means is decided here and nowhere else: a step that raises, misses its deadline, is unknown or has an
invalid configuration refuses the call (`PluginError`), unless its policy is "skip".
"""

from __future__ import annotations

import asyncio
import inspect
from bisect import bisect_left as bisect
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Final, Protocol, cast

from gatewright.errors import (
    CallRefusedError,
    ConfigError,
    DeadlineExceededError,
    GatewayClosedError,
    NoHandlerError,
    OverloadedError,
    PluginError,
    UnknownPluginError,
)
from gatewright.http import Asker, Call, Request, Response, SyncRequest, SyncResponse
from gatewright.runtime.bridge import Strand
from gatewright.runtime.building import ChainBuilder
from gatewright.runtime.draft import Draft
from gatewright.runtime.pdk import PhaseExit
from gatewright.runtime.stats import BOUNDS, Tally
from gatewright.runtime.steps import Around, Mode, PhaseHandler, State, Step, awaited

__all__ = ["Chain", "PhaseCaller"]

_LONGEST_KEY: Final = 500
"""Characters of a route's key in logs and labels; APISIX's own have some dozen."""
_DIRECT: Final = Mode.DIRECT
_COROUTINE: Final = Mode.COROUTINE


class PhaseCaller(Protocol):
    """Gives the `kong` objects of one event."""

    @property
    def is_over(self) -> bool:
        """The gateway is gone, or has its answer."""

    @property
    def sync_pdk(self) -> Any:
        """For `def` handlers."""

    @property
    def async_pdk(self) -> Any:
        """For `async def` handlers."""


class Chain:
    """The steps of one configuration.

    Attributes:
        key: the gateway's key of the configuration, for logs and metrics. What follows a NUL in it is there to tell two
            of the same apart, and left out here.
        name: the part of the key before any `#`: with Kong, the plugin's name.
        late: with APISIX, others may have rewritten the request before: the key names the plugin that asks.
        ready: every step is usable; set once `build` is done.
        last_used: the tick (see `confs`) of its last use.
        token: its conf token, where it has one.
    """

    def __init__(self, key: str, conf: Sequence[tuple[str, str]], builder: ChainBuilder) -> None:
        self.key = key.partition("\0")[0][:_LONGEST_KEY]
        self.name = self.key.partition("#")[0]
        self.late = "#ext-plugin-post-req#" in key
        self.steps: list[Step] = []
        self.request_steps: list[Step] = []
        self.response_steps: list[Step] = []
        self.ready = False
        self.last_used = 0
        self.token: int | None = None
        self._conf: Sequence[tuple[str, str]] | None = conf
        self._builder = builder
        self._bridge = builder.bridge
        self._hold_limit = builder.hold_limit
        self._built: asyncio.Future[None] | None = None

    def build(self, *_: object) -> None:
        """Make the steps and set them up. Runs in a strand; later callers wait for the first."""
        if not self._is_due():
            self._build()
            return
        self._builder.on_building(self, True)
        try:
            self._build()
        finally:
            self._builder.on_building(self, False)

    def _is_due(self) -> bool:
        """Code of plugins will run if this is built now."""
        now = self._bridge.loop.time()
        return self._built is None or any(
            step.state is State.NEW or (step.state is State.SETUP_FAILED and now >= step.next_setup)
            for step in self.steps
            if step.setup_running is None
        )

    def _build(self) -> None:
        if self._built is not None and not self._built.done():
            self._bridge.wait_future(asyncio.shield(self._built))
        if self._built is None:
            built = self._built = self._bridge.loop.create_future()
            try:
                self.steps = [self._builder.make_step(self.key, name, text) for name, text in self._conf or ()]
                self._conf = None  # configurations hold secrets: keep no second copy
            except BaseException:
                self._built = None  # without its steps a chain would let everything pass
                raise
            finally:
                built.set_result(None)
        self._set_up()

    def quarantine(self) -> None:
        """Refuse all calls, and don't build: building this configuration has ended whole processes."""
        conf, self._conf = self._conf or (), None
        self.steps = [self._builder.quarantined_step(self.key, name) for name, _ in conf]
        self.request_steps = self.response_steps = self.steps
        self._built = self._bridge.loop.create_future()
        self._built.set_result(None)

    def _set_up(self) -> None:
        for step in self.steps:
            if step.state is State.NEW or step.state is State.SETUP_FAILED:
                self._builder.set_up(step)
        self.request_steps = [step for step in self.steps if step.counts_in("request")]
        self.response_steps = [step for step in self.steps if step.counts_in("response")]
        self.ready = all(step.state is State.READY for step in self.steps)

    def teardown(self, *_: object) -> None:
        """Release what the plugins hold. Runs in a strand."""
        for step in self.steps:
            self._builder.release(step)
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
        started = strand.began
        for step in self.request_steps:
            strand.work = step
            strand.deadline = 0.0
            try:
                if not ready and step.state is not State.READY:
                    raise step.error or PluginError("not set up yet")
                handler = step.on_request
                mode = step.request_mode
                if mode is _DIRECT:
                    result = handler(SyncRequest(call))  # type: ignore[misc]  # has one in this mode
                elif mode is _COROUTINE:
                    result = bridge.run_coroutine(handler(Request(call)))  # type: ignore[misc]
                else:
                    result = self._run_apart(step, "request", call, mode)
                if result is not None:
                    result = self._response_of(result)
                now = perf_counter()
                if now - strand.began > hold_limit:
                    self._held_the_loop(step, now - strand.began)
                tally = step.request_tally
                tally.counts[bisect(BOUNDS, now - started)] += 1
                tally.seconds += now - started
                started = strand.began = now
                if result is None:
                    continue
            except BaseException as error:
                started = self._failed(step, error, strand, step.request_tally, started, call.asker)
                continue
            return _with_earlier_headers(result, call)
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
        started = strand.began
        for step in self.response_steps:
            strand.work = step
            strand.deadline = 0.0
            try:
                if not ready and step.state is not State.READY:
                    raise step.error or PluginError("not set up yet")
                handler = step.on_response
                mode = step.response_mode
                if mode is _COROUTINE:
                    result = bridge.run_coroutine(handler(Request(call), Response.of_call(call)))  # type: ignore[misc]
                elif mode is _DIRECT:
                    result = handler(SyncRequest(call), SyncResponse.of_call(call))  # type: ignore[misc]
                else:
                    result = self._run_apart(step, "response", call, mode)
                if result is not None:
                    result = self._response_of(result)
                now = perf_counter()
                if now - strand.began > hold_limit:
                    self._held_the_loop(step, now - strand.began)
                tally = step.response_tally
                tally.counts[bisect(BOUNDS, now - started)] += 1
                tally.seconds += now - started
                started = strand.began = now
                if result is not None and not result.answers(call):
                    _replace_response(call, result)
            except BaseException as error:
                started = self._failed(step, error, strand, step.response_tally, started, call.asker)
        return None

    def run_phase(self, phase: str, caller: PhaseCaller, strand: Strand) -> None:
        """Run one of Kong's phases.

        Args:
            phase: which one.
            caller: gives the `kong` objects that handlers get.
            strand: the strand that this runs in.

        Raises:
            CallRefusedError: a step failed and its policy is to refuse the request; it has been logged.
            PhaseExit: a handler has answered the request.
        """
        if not self.ready:
            self.build()
        started = strand.began
        for step in self.steps:
            handler = step.phases.get(phase)
            if handler is None and step.plugin is not None:
                continue
            strand.work = step
            strand.deadline = 0.0
            try:
                if step.state is not State.READY or handler is None:
                    raise step.error or PluginError("not set up yet")
                if step.limit is None:
                    if handler.mode is _DIRECT and step.around is None:
                        result = handler.run(caller.sync_pdk)
                        if result is not None:
                            self._await(result)
                    else:
                        self._run_phase_handler(step, handler, phase, caller)
                else:
                    with step.limit:
                        self._run_phase_handler(step, handler, phase, caller)
                now = perf_counter()
                if now - strand.began > self._hold_limit:
                    self._held_the_loop(step, now - strand.began)
                tally, took = handler.tally, now - started
                tally.counts[bisect(BOUNDS, took)] += 1
                tally.seconds += took
                started = strand.began = now
            except BaseException as error:
                tally = handler.tally if handler is not None else Tally()
                started = self._failed(step, error, strand, tally, started, caller)

    def _run_phase_handler(self, step: Step, handler: PhaseHandler, phase: str, caller: PhaseCaller) -> None:
        around = step.around
        if handler.mode is _COROUTINE:
            coroutine = handler.run(caller.async_pdk)
            if around is not None:
                coroutine = around.coroutine(step, phase, caller, coroutine)
            self._bridge.run_coroutine(coroutine)
            return
        run = handler.run if around is None else partial(self._run_around, around, step, handler, phase, caller)
        if handler.mode is _DIRECT:
            self._await(run(caller.sync_pdk))
        else:
            self._bridge.run_blocking(partial(run, caller.sync_pdk))

    def _await(self, result: Any) -> None:
        """See to the end of what a `def` handler gave back, if it's to be awaited."""
        if inspect.isawaitable(result):
            self._bridge.run_coroutine(awaited(result))

    @staticmethod
    def _run_around(
        around: Around, step: Step, handler: PhaseHandler, phase: str, caller: PhaseCaller, pdk: Any
    ) -> Any:
        return around.function(step, phase, caller, lambda: handler.run(pdk))

    # --- off the hot path

    def _run_apart(self, step: Step, phase: str, call: Call, mode: Mode) -> Any:
        """Run a handler in a thread, or one that is guarded by a limit or has something around it."""
        if step.handler(phase) is None:
            raise NoHandlerError(
                f"{step.name} has no on_{phase}, so it must not be named for {phase}s (ext-plugin-"
                f"{'post-resp' if phase == 'response' else 'pre-req, -post-req'}); "
                "remove it there, or let the plugin say `optional_phases = True`"
            )
        if mode is Mode.THREAD:  # neither limited nor skipped
            function = self._bound(step, phase, call, is_async=False)
            return self._bridge.run_blocking(function)
        limit = step.limit
        if limit is None:
            return self._run_guarded(step, phase, call)
        with limit:
            return self._run_guarded(step, phase, call)

    def _run_guarded(self, step: Step, phase: str, call: Call) -> Any:
        if step.on_error == "fail":
            return self._run_own_mode(step, phase, call)
        draft = Draft(call)
        strand = self._bridge.current()
        try:
            result = self._run_own_mode(step, phase, draft.call)
            if result is not None:
                result = self._response_of(result)
                if result is not None and result.answers(draft.call):
                    result = None
            held = perf_counter() - strand.began
            if held > step.timeout:
                self._held_the_loop(step, held)
        except BaseException:
            draft.drop()
            raise
        draft.take_over()
        return result

    def _run_own_mode(self, step: Step, phase: str, call: Call) -> Any:
        mode, around = step.own_mode[phase], step.around
        run = self._bound(step, phase, call, is_async=mode is _COROUTINE)
        if mode is _COROUTINE:
            coroutine = run()
            return self._bridge.run_coroutine(
                around.coroutine(step, phase, call, coroutine) if around is not None else coroutine
            )
        if around is not None:
            inner = run
            run = lambda: around.function(step, phase, call, inner)  # noqa: E731
        return run() if mode is _DIRECT else self._bridge.run_blocking(run)

    @staticmethod
    def _bound(step: Step, phase: str, call: Call, *, is_async: bool) -> Callable[[], Any]:
        handler: Any = step.handler(phase)
        arguments: tuple[Any, ...] = (Request(call),) if is_async else (SyncRequest(call),)
        if phase == "response":
            arguments += (Response.of_call(call),) if is_async else (SyncResponse.of_call(call),)
        return lambda: handler(*arguments)

    # --- what a result or a failure means

    def _response_of(self, result: Any) -> Response | None:
        if inspect.isawaitable(result):  # a `def` that wraps an `async def`
            result = self._bridge.run_coroutine(awaited(result))
            if result is None:
                return None
        if isinstance(result, Response | SyncResponse):
            return cast("Response", result)
        raise PluginError(f"the handler returned {type(result).__name__}: return a Response, or None to go on")

    def _held_the_loop(self, step: Step, seconds: float) -> None:
        """A handler kept everybody waiting."""
        self._builder.held_the_loop(step, seconds)
        if seconds > step.timeout:
            raise DeadlineExceededError(f"took {seconds:.3g} s, its timeout is {step.timeout:g} s")

    def failed_before(self, error: BaseException, strand: Strand, phase: str) -> None:
        """What a handler needs could not be had: as if the handler had failed itself.

        Args:
            error: why not.
            strand: the strand that this runs in.
            phase: `request` or `response`.

        Raises:
            CallRefusedError: the policy is to refuse the call; it has been logged.
        """
        step = self.steps[0]
        tally = step.request_tally if phase == "request" else step.response_tally
        asker: Asker = strand.call.asker
        self._failed(step, error, strand, tally, strand.began, asker)

    def _failed(
        self,
        step: Step,
        error: BaseException,
        strand: Strand,
        tally: Tally,
        started: float,
        gateway: Asker | PhaseCaller,
    ) -> float:
        """What a failure of a step means; gives the time if the chain goes on without it."""
        # Plugins may raise these themselves, and then it's a failure like any other.
        if (isinstance(error, GatewayClosedError | PhaseExit) and gateway.is_over) or strand.dies:
            raise error
        now = strand.began = perf_counter()
        tally.counts[bisect(BOUNDS, now - started)] += 1
        tally.seconds += now - started
        refused = step.on_error == "fail"
        kind = _kind_of(step, error)
        what = _WHAT[kind]
        self._builder.failures.report(
            f"{what}: request {'refused' if refused else 'goes on without it (on_error = skip)'}",
            kind=kind,
            plugin=step.name,
            route=self.key,
            error=error,
            traceback=kind in {"setup_failed", "plugin_error"},
        )
        if refused:
            raise CallRefusedError(f"{what}: {step.name}") from error
        return now


_WHAT: Final = {
    "deadline": "plugin missed its deadline",
    "unknown_plugin": "plugin not found",
    "invalid_config": "plugin configuration is invalid",
    "no_handler": "plugin has no handler for this phase",
    "overloaded": "plugin is overloaded",
    "setup_failed": "plugin set-up failed",
    "plugin_error": "plugin failed",
}


def _kind_of(step: Step, error: BaseException) -> str:
    if isinstance(error, DeadlineExceededError):
        return "deadline"
    if isinstance(error, UnknownPluginError):
        return "unknown_plugin"
    if isinstance(error, NoHandlerError):
        return "no_handler"
    if isinstance(error, ConfigError):
        return "invalid_config"
    if isinstance(error, OverloadedError):
        return "overloaded"
    return "setup_failed" if step.state is State.SETUP_FAILED else "plugin_error"


def _with_earlier_headers(response: Response, call: Call) -> Response:
    """Let response headers that earlier plugins asked for reach the client on a stop too."""
    earlier = call.seen_response_headers
    if earlier is None or not earlier.changes:
        return response
    # A copy: the plugin may give the same object to other clients, too.
    answer = Response(response.status, response.headers.multi_items(), response.content)
    for name, values in earlier.changes.items():
        if values and name not in response.headers:
            answer.headers.set_all(name, values)
    return answer


def _replace_response(call: Call, response: Response) -> None:
    """Put a plugin's own answer in the place of the upstream's, so that later plugins see it."""
    call.status_change = response.status
    call.response_headers.replace({})
    for name in response.headers:
        call.response_headers.set_all(name, response.headers.get_all(name))
    call.response_body = response.content
