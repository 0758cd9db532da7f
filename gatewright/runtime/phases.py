"""Kong's phases of a chain: handlers that get a `kong` object."""

from __future__ import annotations

import inspect
from functools import partial
from time import perf_counter
from typing import Any, Final, Protocol

from gatewright.errors import PluginError
from gatewright.runtime.lifecycle import ChainLife
from gatewright.runtime.stats import new_tally
from gatewright.runtime.steps import Around, Mode, PhaseHandler, State, Step, awaited, check_has_run
from gatewright.runtime.strands import Strand

__all__ = ["PhaseCaller", "PhaseChain"]

_DIRECT: Final = Mode.DIRECT
_COROUTINE: Final = Mode.COROUTINE
_READY: Final = State.READY  # a member of an enumeration is looked up in its class, which takes ten times as long


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


class PhaseChain(ChainLife):
    """A chain whose plugins may have handlers for Kong's phases."""

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
                if handler is None or step.state is not _READY:
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
                handler.tally.note(now - started)
                started = strand.began = now
            except BaseException as error:
                tally = handler.tally if handler is not None else new_tally()
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
            self._await(self._bridge.run_blocking(partial(run, caller.sync_pdk)))

    def _await(self, result: Any) -> None:
        """See to the end of what a `def` handler gave back, if it's to be awaited."""
        if inspect.isawaitable(result):
            self._bridge.run_coroutine(awaited(result))
        else:
            check_has_run(result)

    @staticmethod
    def _run_around(
        around: Around, step: Step, handler: PhaseHandler, phase: str, caller: PhaseCaller, pdk: Any
    ) -> Any:
        return around.function(step, phase, caller, lambda: handler.run(pdk))
