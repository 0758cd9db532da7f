"""Recording calls: chains of another build, which tell what each plugin did to a call.

A runner that is not asked to record has none of this: its chains and connections are the plain ones, which know of no
recorder. One that is has `RecordedChain`s, whose steps note that their handler is called before they call it, and
connections that begin and end a `CallRecord`. A step's end is the next one's beginning, or the chain's end.

What is written down is what can't be known from outside: which handlers ran, when, what they changed, asked and logged,
and how they failed. Whoever reads the record (a development gateway) has the rest: it sent the call and has the reply.
Records are packed as plain tuples (`packed`); `gatewright.dev` reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter, time
from typing import Any, Final

from greenlet import getcurrent

from gatewright.errors import (
    CallRefusedError,
    ConfigError,
    DeadlineExceededError,
    OverloadedError,
    PluginError,
    UnknownPluginError,
)
from gatewright.http import Call, Question, Response
from gatewright.runtime.chain import Chain
from gatewright.runtime.pdk import PhaseExit
from gatewright.runtime.phases import PhaseCaller
from gatewright.runtime.spare_tasks import CURRENT
from gatewright.runtime.stats import Tally
from gatewright.runtime.steps import Step
from gatewright.runtime.strands import Strand
from gatewright.runtime.tracebacks import describe
from gatewright.runtime.verdicts import Gateway

__all__ = ["LONGEST_BODY", "Asked", "CallRecord", "RecordedChain", "StepRecord", "current_record"]

LONGEST_BODY: Final = 1 << 16
"""Bytes of a body, or of an answer of the gateway's, that are kept."""
_MOST_LINES: Final = 200
_MOST_ASKED: Final = 500
_MOST_LONG: Final = 16
_SHORT: Final = 256
"""Bytes that are kept of answers beyond the first few of a plugin's, so that a record stays one that can be sent."""


class Asked:
    """A question to the gateway, and what it answered."""

    __slots__ = ("answer", "at", "error", "name", "room", "seconds", "size", "what")

    def __init__(self, what: str, name: str, at: float, room: int) -> None:
        self.what, self.name, self.at, self.room = what, name, at, room
        self.seconds = -1.0  # it was never answered
        self.answer: bytes | None = None
        self.size = 0
        self.error = ""

    def answered(self, answer: bytes | None, at: float) -> None:
        """It was answered."""
        self.seconds = at - self.at
        if answer is not None:
            self.size = len(answer)
            self.answer = answer[: self.room]

    def failed(self, error: BaseException, at: float) -> None:
        """It can't be answered."""
        self.seconds = at - self.at
        self.error = str(error) or type(error).__name__

    def packed(self) -> tuple[Any, ...]:
        """Kind, name, when, for how long, the answer, its size, why there is none."""
        return self.what, self.name, self.at, self.seconds, self.answer, self.size, self.error


class StepRecord:
    """What one plugin did.

    Attributes:
        at: when its handler was called, seconds since the call's begin.
        seconds: how long it took; below 0 while it runs.
        outcome: `went on`, `answered`, `failed`, `timed out`, `skipped`, `not called` or `abandoned`.
        why: of an outcome that needs a reason.
        changes: all changes of the call's that were in force when it had ended; `None` if they were those of before.
    """

    # Class-level defaults, as `Call` has them: most steps have nothing to say of most of these.
    seconds: float = -1.0
    outcome: str = "went on"
    why: str = ""
    changes: tuple[Any, ...] | None = None
    asked: list[Asked] | None = None
    lines: list[tuple[Any, ...]] | None = None
    failure: Any = None
    answer: Response | None = None

    def __init__(self, step: Step, at: float) -> None:
        self.step = step
        self.at = at

    def packed(self) -> tuple[Any, ...]:
        """Plugin, when, for how long, outcome, why, changes, what it asked, its lines, its exception, its answer."""
        return (
            self.step.name, self.at, self.seconds, self.outcome, self.why,
            self.changes if self.changes is None or self.changes[4::2] == _NO_BODIES else _packed_changes(self.changes),
            None if self.asked is None else [asked.packed() for asked in self.asked],
            self.lines, self.failure,
            None if self.answer is None else _packed_answer(self.answer),
        )  # fmt: skip


class CallRecord:
    """What a chain did for one call.

    Attributes:
        key: how the gateway knows the call: APISIX's id, Kong's ticket.
        phase: `request`, `response`, or one of Kong's.
        at: when it began, as `time.time` has it.
        route: the gateway's key of the configuration.
        asked: what was asked for no plugin: what the reply needs.
        refused: why the call was refused, if it was.
    """

    seconds: float = -1.0
    route: str = ""
    refused: str = ""
    asked: list[Asked] | None = None
    changes: tuple[Any, ...] = (None, None, None, None, None, 0, None)

    def __init__(self, key: int, phase: str) -> None:
        self.key = key
        self.phase = phase
        self.at = time()
        self._began = perf_counter()
        self.steps: list[StepRecord] = []

    def begin_step(self, step: Step, call: Call | None) -> StepRecord:
        """A handler is about to run, or can't be; what ran before has ended."""
        now = perf_counter() - self._began
        if self.steps:
            self._end_step(now, call)
        entry = StepRecord(step, now)
        self.steps.append(entry)
        return entry

    def end_steps(self, call: Call | None) -> None:
        """The chain has ended."""
        if self.steps:
            self._end_step(perf_counter() - self._began, call)

    def _end_step(self, now: float, call: Call | None) -> None:
        last = self.steps[-1]
        if last.seconds < 0:
            last.seconds = now - last.at
        if call is None:
            return
        headers, query, response_headers = call.seen_headers, call.seen_query, call.seen_response_headers
        changes = (
            call.path,
            dict(headers.changes) if headers is not None and headers.changes else None,
            dict(query.changes) if query is not None and query.changes else None,
            dict(response_headers.changes) if response_headers is not None and response_headers.changes else None,
            call.body, call.status_change, call.response_body,
        )  # fmt: skip
        if changes != self.changes:
            self.changes = last.changes = changes

    def asks(self, question: Question) -> Asked | None:
        """Somebody asks the gateway; `None` if so much was asked already that this is left out."""
        step = self.steps[-1] if self.steps else None
        of: StepRecord | CallRecord = step if step is not None and step.seconds < 0 else self
        if of.asked is None:
            of.asked = []
        if len(of.asked) >= _MOST_ASKED:
            return None
        room = LONGEST_BODY if len(of.asked) < _MOST_LONG else _SHORT
        asked = Asked(question.kind, question.name, self.now(), room)
        of.asked.append(asked)
        return asked

    @contextmanager
    def noting(self, question: Question) -> Iterator[Callable[[bytes | None], None]]:
        """Somebody asks within this; gives what is to be told the answer."""
        asked = self.asks(question)
        if asked is None:
            yield lambda _: None
            return
        try:
            yield lambda answer: asked.answered(answer, self.now())
        except BaseException as error:
            asked.failed(error, self.now())
            raise

    def log(self, level: str, text: str, fields: Mapping[str, str]) -> None:
        """The plugin that runs has logged a line."""
        if self.steps:
            step = self.steps[-1]
            if step.lines is None:
                step.lines = []
            if len(step.lines) < _MOST_LINES:
                step.lines.append((self.now(), level, text, fields))

    def now(self) -> float:
        """Seconds since its begin."""
        return perf_counter() - self._began

    def packed(self) -> tuple[Any, ...]:
        """Key, phase, route, begin, for how long, why it was refused, steps, what was asked besides."""
        return (
            self.key, self.phase, self.route, self.at, self.seconds, self.refused,
            [step.packed() for step in self.steps],
            None if self.asked is None else [asked.packed() for asked in self.asked],
        )  # fmt: skip


def current_record() -> CallRecord | None:
    """The record of the call that the caller runs for, be it in a thread or a task that was started for it."""
    running = getcurrent()
    if isinstance(running, Strand):
        record: CallRecord | None = running.record
        return record
    under = CURRENT.get()
    return getattr(under[0], "record", None) if under is not None else None


class RecordedChain(Chain):
    """A chain whose calls are recorded: in `strand.record`, which is `None` for a call that is left out."""

    def _set_up(self) -> None:
        super()._set_up()
        for step in self.steps:
            if step.on_request is not None and not isinstance(step.on_request, _Noting):
                step.on_request = _Noting(step, step.on_request)
            if step.on_response is not None and not isinstance(step.on_response, _Noting):
                step.on_response = _Noting(step, step.on_response)

    def run_request(self, call: Call, strand: Strand) -> Response | None:
        """See `Chain.run_request`."""
        record: CallRecord | None = strand.record
        call.record = record
        response = super().run_request(call, strand)
        if record is not None:
            record.end_steps(call)
            if response is not None:
                record.steps[-1].outcome, record.steps[-1].answer = "answered", response
        return response

    def run_response(self, call: Call, strand: Strand) -> Response | None:
        """See `Chain.run_response`."""
        record: CallRecord | None = strand.record
        call.record = record
        response = super().run_response(call, strand)
        if record is not None:
            record.end_steps(call)
        return response

    def run_phase(self, phase: str, caller: PhaseCaller, strand: Strand) -> None:
        """See `PhaseChain.run_phase`. A chain of Kong's has one step."""
        record: CallRecord | None = strand.record
        if record is None:
            super().run_phase(phase, caller, strand)
            return
        if self.ready:
            record.begin_step(self.steps[0], None)
        try:
            super().run_phase(phase, caller, strand)
        except PhaseExit:
            if record.steps:
                record.steps[-1].outcome = "answered"
            raise
        finally:
            record.end_steps(None)

    def _failed(
        self, step: Step, error: BaseException, strand: Strand, tally: Tally, started: float, gateway: Gateway
    ) -> float:
        record: CallRecord | None = strand.record
        if record is None:
            return super()._failed(step, error, strand, tally, started, gateway)
        entry = record.steps[-1] if record.steps else None
        if entry is None or entry.step is not step:  # its handler was never reached
            entry = record.begin_step(step, strand.call)
            entry.outcome = "not called"
        entry.seconds = record.now() - entry.at
        try:
            now = super()._failed(step, error, strand, tally, started, gateway)
        except CallRefusedError:
            _note(entry, error, "failed")
            raise
        except PhaseExit:
            entry.outcome = "answered"
            raise
        except BaseException:
            entry.outcome, entry.why = "abandoned", str(error)
            raise
        _note(entry, error, "skipped")
        return now


class _Noting:
    """A handler that is noted before it's called."""

    __slots__ = ("_handler", "_step")

    def __init__(self, step: Step, handler: Callable[..., Any]) -> None:
        self._step, self._handler = step, handler

    def __call__(self, request: Any, *rest: Any) -> Any:
        call: Call = request._call
        record: CallRecord | None = call.record
        if record is not None:
            record.begin_step(self._step, call)
        return self._handler(request, *rest)


def _note(entry: StepRecord, error: BaseException, outcome: str) -> None:
    """Note how a step failed."""
    entry.why = str(error) or type(error).__name__
    if outcome == "skipped" or entry.outcome != "not called":
        late = outcome == "failed" and isinstance(error, DeadlineExceededError)
        entry.outcome = "timed out" if late else outcome
    cause = error.__cause__ if isinstance(error, ConfigError | PluginError) and error.__cause__ else error
    says_enough = isinstance(cause, ConfigError | UnknownPluginError | OverloadedError)
    if cause.__traceback__ is not None and not says_enough:
        entry.failure = describe(cause)


_NO_BODIES: Final = (None, None)


def _packed_changes(changes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Path, headers, query, headers for the client, body, status, body for the client; bodies cut, with their size."""
    path, headers, query, response_headers, body, status, response_body = changes
    return path, headers, query, response_headers, _cut(body), status, _cut(response_body)


def _cut(body: bytes | None) -> tuple[bytes, int] | None:
    return None if body is None else (body[:LONGEST_BODY], len(body))


def _packed_answer(answer: Response) -> tuple[Any, ...]:
    """Status, headers, body."""
    return answer.status, answer.headers.multi_items(), _cut(answer.content)
