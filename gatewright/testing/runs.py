"""What each plugin did to a call, as a test looks at it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from gatewright.http import Call, Response
from gatewright.runtime.pdk import PhaseExit
from gatewright.runtime.steps import Step
from gatewright.testing.changes import Changes

__all__ = ["CURRENT", "PdkCall", "PluginRuns", "Run", "Visit", "Watch"]


@dataclass(frozen=True, slots=True)
class PdkCall:
    """Something that Kong was asked for, or told to do."""

    method: str
    args: tuple[Any, ...]
    value: Any


@dataclass(slots=True)
class Run:
    """One handler's run for one call.

    Attributes:
        plugin: the plugin's name.
        phase: `request` or `response`, or the name of one of Kong's phases.
        changes: what it changed.
        answer: the answer that it gave of its own, which ends the chain.
        error: what it raised.
        pdk: on Kong, the calls to its PDK, the runner's own included.
    """

    plugin: str
    phase: str
    changes: Changes = field(default_factory=Changes)
    answer: Response | None = None
    error: BaseException | None = None
    pdk: list[PdkCall] = field(default_factory=list)


class PluginRuns:
    """The runs of one plugin in one call."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = tuple(runs)

    def __getitem__(self, phase: str) -> Run:
        """The run in a phase.

        Raises:
            KeyError: it did not run there.
        """
        for run in self.runs:
            if run.phase == phase:
                return run
        ran = ", ".join(run.phase for run in self.runs) or "in no phase"
        raise KeyError(f"it did not run in the phase {phase!r}; it ran: {ran}")

    def __contains__(self, phase: object) -> bool:
        return any(run.phase == phase for run in self.runs)

    @property
    def request(self) -> Run:
        """The run of `on_request`."""
        return self["request"]

    @property
    def response(self) -> Run:
        """The run of `on_response`."""
        return self["response"]

    def __repr__(self) -> str:
        return f"PluginRuns({list(self.runs)!r})"


@dataclass(slots=True, eq=False)
class Visit:
    """One request on its way through the gateway.

    Attributes:
        runs: what plugins did, in order.
        refused: why the runner refused it.
        failed: what a test's upstream raised.
        upstream: what the upstream was sent.
        closing: what is to be closed afterwards.
        ways: the gateway's ways to plugin servers, by plugin.
        under_way: a run that the gateway has begun, and whose handler has not.
    """

    runs: list[Run] = field(default_factory=list)
    refused: BaseException | None = None
    failed: BaseException | None = None
    upstream: list[Any] = field(default_factory=list)
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    ways: dict[str, Any] = field(default_factory=dict)
    under_way: Run | None = None


CURRENT: ContextVar[Visit] = ContextVar("gatewright_visit")
"""The visit in whose task the gateway's code runs."""


class Watch:
    """Notes what handlers do (see `gatewright.runtime.steps.Around`). The visit is the call's `trace`."""

    def function(self, step: Step, phase: str, call: Any, run: Callable[[], Any]) -> Any:
        """Run a `def` handler."""
        with self._noting(step, phase, call) as noted:
            result = run()
            noted.answer = _answer(result, call)
            return result

    async def coroutine(self, step: Step, phase: str, call: Any, run: Coroutine[Any, Any, Any]) -> Any:
        """Run an `async def` handler."""
        with self._noting(step, phase, call) as noted:
            result = await run
            noted.answer = _answer(result, call)
            return result

    @contextlib.contextmanager
    def _noting(self, step: Step, phase: str, call: Any) -> Iterator[Run]:
        visit: Visit = call.trace
        is_call = isinstance(call, Call)
        before = Changes.of(call) if is_call else Changes()
        noted = _run_of(visit, step.name, phase)
        try:
            yield noted
        except BaseException as error:
            if not (isinstance(error, PhaseExit) and call.is_over):  # `kong.response.exit` is no failure
                noted.error = error
            raise
        finally:
            if is_call:
                noted.changes = Changes.of(call).since(before)


def _run_of(visit: Visit, plugin: str, phase: str) -> Run:
    """The run to note in: with Kong, whose phases the gateway begins, the one under way."""
    run, visit.under_way = visit.under_way, None
    if run is None or run.plugin != plugin:
        run = Run(plugin, phase)
        visit.runs.append(run)
    run.phase = phase  # Kong calls it access
    return run


def _answer(result: Any, call: Any) -> Response | None:
    if result is None or not hasattr(result, "answers") or (isinstance(call, Call) and result.answers(call)):
        return None
    answer: Response = result
    return answer
