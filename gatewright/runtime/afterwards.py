"""What a chain does when the client has its answer: `on_log(request, response)`.

Nobody waits and nothing can be changed, so a failure refuses nothing: it's told, and the next plugin has its turn.
"""

from __future__ import annotations

import inspect
from functools import partial
from time import perf_counter

from gatewright.errors import DeadlineExceededError, PluginError
from gatewright.http import Call, Request, Response, SyncRequest, SyncResponse
from gatewright.runtime.phases import PhaseChain
from gatewright.runtime.steps import Mode, PhaseHandler, State, Step, awaited, check_has_run
from gatewright.runtime.strands import Strand

__all__ = ["LogChain"]


class LogChain(PhaseChain):
    """A chain whose plugins may want to know how requests ended."""

    def run_log(self, call: Call, strand: Strand) -> None:
        """Tell all plugins that want to know.

        Args:
            call: request and answer.
            strand: the strand that this runs in.
        """
        if not self.ready:
            self.build()
        for step in self.steps:
            handler = step.after
            if handler is None:
                continue
            strand.work = step
            strand.deadline = 0.0
            started = strand.began = perf_counter()
            try:
                if step.state is not State.READY:
                    raise step.error or PluginError("not set up yet")
                self._tell(step, handler, call)
                if (held := perf_counter() - strand.began) > self._hold_limit:
                    self._held_the_loop(step, held)
            except BaseException as error:
                if strand.dies:
                    raise
                self._builder.failures.report(
                    "plugin failed after the answer",
                    kind="deadline" if isinstance(error, DeadlineExceededError) else "plugin_error",
                    plugin=step.name,
                    route=self.key,
                    error=error,
                    traceback=not isinstance(error, DeadlineExceededError),
                )
            handler.tally.note(perf_counter() - started)

    def _tell(self, step: Step, handler: PhaseHandler, call: Call) -> None:
        around = step.around
        if handler.mode is Mode.COROUTINE:
            coroutine = handler.run(Request(call), Response.of_call(call))
            if around is not None:
                coroutine = around.coroutine(step, "log", call, coroutine)
            self._bridge.run_coroutine(coroutine)
            return
        run = partial(handler.run, SyncRequest(call), SyncResponse.of_call(call))
        if around is not None:
            run = partial(around.function, step, "log", call, run)
        result = run() if handler.mode is Mode.DIRECT else self._bridge.run_blocking(run)
        if inspect.isawaitable(result):
            self._bridge.run_coroutine(awaited(result))
        else:
            check_has_run(result)
