"""Recording calls: chains of another build, which tell what each plugin did to a call.

A runner that is not asked to record has none of this: its chains and connections are the plain ones, which know of no
recorder. One that is has `RecordedChain`s, whose steps note that their handler is called before they call it, and
connections that begin and end a `CallRecord`. A step's end is the next one's beginning, or the chain's end.

What is written down is what can't be known from outside: which handlers ran, when, what they changed, asked and logged,
and how they failed. Whoever reads the record (a development gateway) has the rest: it sent the call and has the reply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from greenlet import getcurrent

from gatewright.errors import (
    CallRefusedError,
    ConfigError,
    DeadlineExceededError,
    OverloadedError,
    PluginError,
    UnknownPluginError,
    tangible,
    text_of,
)
from gatewright.http import Call, Response
from gatewright.runtime.building import ChainBuilder
from gatewright.runtime.chain import Chain
from gatewright.runtime.pdk import PhaseExit
from gatewright.runtime.phases import PhaseCaller
from gatewright.runtime.records import CallRecord, StepRecord, request_changes, response_changes
from gatewright.runtime.spare_tasks import CURRENT
from gatewright.runtime.stats import Tally
from gatewright.runtime.steps import PhaseHandler, Step
from gatewright.runtime.strands import Strand
from gatewright.runtime.tracebacks import describe
from gatewright.runtime.verdicts import Gateway

__all__ = ["RecordedChain", "current_record"]


def current_record() -> CallRecord | None:
    """The record of the call that the caller runs for, be it in a thread or a task that was started for it."""
    running = getcurrent()
    if isinstance(running, Strand):
        return running.record or getattr(running.call, "record", None)
    under = CURRENT.get()
    return getattr(under[0], "record", None) if under is not None else None


class RecordedChain(Chain):
    """A chain whose calls are recorded.

    The record is in `call.record`, or, where the call is made later than its record, in `strand.record`. It is `None`
    for a call that is left out.
    """

    def __init__(self, key: str, conf: Sequence[tuple[str, str]], builder: ChainBuilder) -> None:
        super().__init__(key, conf, builder)
        self._run_request = super().run_request  # looking it up costs as much as the record
        self._run_response = super().run_response

    def _set_up(self) -> None:
        super()._set_up()
        for place, step in enumerate(self.steps):
            if step.on_request is not None and not hasattr(step.on_request, "notes_calls"):
                step.on_request = _noting_request(step.name, place, step.on_request)
            if step.on_response is not None and not hasattr(step.on_response, "notes_calls"):
                step.on_response = _noting_response(step.name, place, step.on_response)

    def run_request(self, call: Call, strand: Strand) -> Response | None:
        """See `Chain.run_request`."""
        record: CallRecord | None = call.record
        if record is None:
            record = call.record = strand.record
        response = self._run_request(call, strand)
        if record is not None:
            record.ended = strand.began  # when its last step had ended
            steps = record.steps
            if steps:
                steps[-1].changes = request_changes(call)
                if response is not None:
                    steps[-1].answered(response)
        return response

    def run_response(self, call: Call, strand: Strand) -> Response | None:
        """See `Chain.run_response`."""
        record: CallRecord | None = call.record
        if record is None:
            record = call.record = strand.record
        response = self._run_response(call, strand)
        if record is not None:
            record.ended = strand.began
            if record.steps:
                record.steps[-1].changes = response_changes(call)
        return response

    def run_phase(self, phase: str, caller: PhaseCaller, strand: Strand) -> None:
        """See `PhaseChain.run_phase`. A chain of Kong's has one step."""
        record: CallRecord | None = strand.record
        if record is None:
            super().run_phase(phase, caller, strand)
            return
        if self.ready:
            record.steps.append(StepRecord(self.steps[0].name, 0, perf_counter()))
        try:
            super().run_phase(phase, caller, strand)
        except PhaseExit:
            if record.steps:
                record.steps[-1].outcome = "answered"
            raise
        finally:
            record.ended = perf_counter()

    def run_log(self, call: Call, strand: Strand) -> None:
        """See `LogChain.run_log`. Only Kong waits for its record."""
        record: CallRecord | None = strand.record
        call.record = record
        super().run_log(call, strand)
        if record is not None:
            record.ended = perf_counter()

    def _tell(self, step: Step, handler: PhaseHandler, call: Call) -> None:
        record: CallRecord | None = call.record
        if record is None:
            super()._tell(step, handler, call)
            return
        entry = StepRecord(step.name, self.steps.index(step), perf_counter())
        record.steps.append(entry)
        try:
            super()._tell(step, handler, call)
        except Exception as error:
            entry.ended = perf_counter()
            _note(entry, tangible(error), "failed")
            raise

    def _failed(
        self, step: Step, error: BaseException, strand: Strand, tally: Tally, started: float, gateway: Gateway
    ) -> float:
        error = tangible(error)
        call = strand.call
        record: CallRecord | None = strand.record or getattr(call, "record", None)
        if record is None:
            return super()._failed(step, error, strand, tally, started, gateway)
        place = self.steps.index(step)
        entry = record.steps[-1] if record.steps else None
        if entry is None or entry.place != place:  # its handler was never reached
            if entry is not None and isinstance(call, Call):
                entry.changes = request_changes(call) if record.phase == "request" else response_changes(call)
            entry = StepRecord(step.name, place, perf_counter(), outcome="not called")
            record.steps.append(entry)
        entry.ended = perf_counter()
        try:
            now = super()._failed(step, error, strand, tally, started, gateway)
        except CallRefusedError:
            _note(entry, error, "failed")
            raise
        except PhaseExit:
            entry.outcome = "answered"
            raise
        except BaseException:
            entry.outcome, entry.why = "abandoned", text_of(error)
            raise
        _note(entry, error, "skipped")
        return now


def _noting_request(name: str, place: int, handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A handler that is noted before it's called."""

    def noted(request: Any) -> Any:
        call: Call = request._call
        record: CallRecord | None = call.record
        if record is not None:
            steps = record.steps
            if steps:
                steps[-1].changes = request_changes(call)
            steps.append(StepRecord(name, place, perf_counter()))
        return handler(request)

    noted.notes_calls = True  # type: ignore[attr-defined]
    return noted


def _noting_response(name: str, place: int, handler: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """As `_noting_request`."""

    def noted(request: Any, response: Any) -> Any:
        call: Call = request._call
        record: CallRecord | None = call.record
        if record is not None:
            steps = record.steps
            if steps:
                steps[-1].changes = response_changes(call)
            steps.append(StepRecord(name, place, perf_counter()))
        return handler(request, response)

    noted.notes_calls = True  # type: ignore[attr-defined]
    return noted


def _note(entry: StepRecord, error: BaseException, outcome: str) -> None:
    """Note how a step failed."""
    entry.why = text_of(error) or type(error).__name__
    if outcome == "skipped" or entry.outcome != "not called":
        late = outcome == "failed" and isinstance(error, DeadlineExceededError)
        entry.outcome = "timed out" if late else outcome
    cause = error.__cause__ if isinstance(error, ConfigError | PluginError) and error.__cause__ else error
    says_enough = isinstance(cause, ConfigError | UnknownPluginError | OverloadedError)
    if cause.__traceback__ is not None and not says_enough:
        entry.failure = describe(cause)
