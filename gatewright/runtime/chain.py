"""A chain: the plugins of one configuration, in order, and the running of one call through them.

`Chain.run_request` and `Chain.run_response` are the hot path. They are ordinary straight-line code that runs inside a
strand (see `bridge`), so a handler may wait wherever it likes.

What a failure means is said in `verdicts`, how steps come to be in `lifecycle`, Kong's phases are in `phases`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final, cast

from gatewright.errors import (
    NoHandlerError,
    PluginError,
)
from gatewright.http import Call, Request, Response, SyncRequest, SyncResponse
from gatewright.runtime.afterwards import LogChain
from gatewright.runtime.draft import Draft
from gatewright.runtime.phases import PhaseCaller
from gatewright.runtime.steps import Mode, State, Step, awaited
from gatewright.runtime.strands import Strand

__all__ = ["Chain", "PhaseCaller"]

_DIRECT: Final = Mode.DIRECT
_COROUTINE: Final = Mode.COROUTINE


class Chain(LogChain):
    """The plugins of one configuration (see `ChainLife`), and the running of one call through them."""

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
        several = self.several_for_requests
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
                if several:
                    strand.gr_context = None  # context variables of one handler are not for the next one to see
                now = perf_counter()
                if now - strand.began > hold_limit:
                    self._held_the_loop(step, now - strand.began)
                step.request_tally.note(now - started)
                started = strand.began = now
                if result is None:
                    continue
            except BaseException as error:
                started = self._failed(step, error, strand, step.request_tally, started, call.asker)
                strand.gr_context = None
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
                strand.gr_context = None
                now = perf_counter()
                if now - strand.began > hold_limit:
                    self._held_the_loop(step, now - strand.began)
                step.response_tally.note(now - started)
                started = strand.began = now
                if result is not None and not result.answers(call):
                    _replace_response(call, result)
            except BaseException as error:
                started = self._failed(step, error, strand, step.response_tally, started, call.asker)
                strand.gr_context = None
        return None

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
