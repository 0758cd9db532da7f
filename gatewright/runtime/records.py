"""The record of a call: what its plugins did, as it is written down and sent (`observe.recording`).

A call's handlers wait for what is written here, so it is little: names and moments, and copies of what was changed.
Records are structs that msgspec packs as they are, many at once, some time after their calls. Whoever reads them works
out the rest: how long things took, and what a plugin added to the changes of those before it.

Moments are `perf_counter`'s; 0 is never. `CallRecord.move` makes `time.time`'s of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any, Final

from msgspec import Struct

from gatewright.errors import text_of
from gatewright.http import Call, Question, Response

__all__ = ["LONGEST_BODY", "Asked", "CallRecord", "Changes", "StepRecord", "request_changes", "response_changes"]

LONGEST_BODY: Final = 1 << 16
"""Bytes of a body, or of an answer of the gateway's, that are kept."""
_MOST_LINES: Final = 200
_MOST_ASKED: Final = 500
_MOST_LONG: Final = 16
_SHORT: Final = 256
"""Bytes that are kept of answers beyond the first few of a plugin's, so that a record stays one that can be sent."""

Cut = tuple[bytes, int] | None
"""The beginning of a body, and the size of all of it."""
Table = Mapping[str, tuple[str, ...] | None] | None
Changes = tuple[str | None, Table, Table, Table, Cut, int, Cut]
"""Path, headers, arguments, headers for the client, body, status, body for the client."""


# None of these can be part of a cycle, so the garbage collector need not know of those that wait to be sent.


class Asked(Struct, array_like=True, gc=False):
    """A question to the gateway, and what it answered.

    Attributes:
        room: how much of the answer is kept.
        size: how long all of it was.
        error: why there is none.
    """

    what: str
    name: str
    at: float
    room: int
    seconds: float = -1.0
    answer: bytes | None = None
    size: int = 0
    error: str = ""

    def answered(self, answer: bytes | None) -> None:
        """It was answered."""
        self.seconds = perf_counter() - self.at
        if answer is not None:
            self.size = len(answer)
            self.answer = answer[: self.room]

    def failed(self, error: BaseException) -> None:
        """It can't be answered."""
        self.seconds = perf_counter() - self.at
        self.error = text_of(error) or type(error).__name__


class StepRecord(Struct, array_like=True, gc=False):
    """What one plugin did.

    Attributes:
        place: which of the chain's plugins it is, counted from 0.
        at: when its handler was called.
        ended: when it ended, if that wasn't when the next one began, or the chain ended.
        outcome: `went on`, `answered`, `failed`, `timed out`, `skipped`, `not called` or `abandoned`.
        why: of an outcome that needs a reason.
        changes: all changes of the call's that were in force when it had ended; `None`: nobody looked.
        lines: what it logged: when, level, text, fields.
        failure: its exception (`tracebacks.describe`).
        answer: its answer: status, headers, body.
    """

    name: str
    place: int
    at: float
    ended: float = 0.0
    outcome: str = "went on"
    why: str = ""
    changes: Changes | None = None
    asked: list[Asked] | None = None
    lines: list[tuple[float, str, str, dict[str, str]]] | None = None
    failure: dict[str, Any] | None = None
    answer: tuple[int, list[tuple[str, str]], Cut] | None = None

    def answered(self, response: Response) -> None:
        """It has answered the client."""
        self.outcome = "answered"
        self.answer = response.status, response.headers.multi_items(), _cut(response.content)


class CallRecord(Struct, array_like=True, gc=False):
    """What a chain did for one call.

    Attributes:
        key: how the gateway knows the call: APISIX's id, Kong's ticket.
        phase: `request`, `response`, or one of Kong's.
        at: when it began.
        route: the gateway's key of the configuration.
        ended: when the chain had ended.
        refused: why the call was refused, if it was.
        asked: what was asked for no plugin: what the reply needs.
    """

    key: int
    phase: str
    at: float
    route: str = ""
    ended: float = 0.0
    refused: str = ""
    steps: list[StepRecord] = []
    asked: list[Asked] | None = None

    @property
    def _running(self) -> StepRecord | None:
        step = self.steps[-1] if self.steps else None
        return None if step is None or step.ended or self.ended else step

    def asks(self, question: Question) -> Asked:
        """Somebody asks the gateway. If so much was asked already, this is left out."""
        of: StepRecord | CallRecord = self._running or self
        if of.asked is None:
            of.asked = []
        room = LONGEST_BODY if len(of.asked) < _MOST_LONG else _SHORT
        asked = Asked(question.kind, question.name, perf_counter(), room)
        if len(of.asked) < _MOST_ASKED:
            of.asked.append(asked)
        return asked

    def log(self, level: str, text: str, fields: dict[str, str]) -> None:
        """The plugin that runs has logged a line."""
        if self.steps:
            step = self.steps[-1]
            if step.lines is None:
                step.lines = []
            if len(step.lines) < _MOST_LINES:
                step.lines.append((perf_counter(), level, text, fields))

    def move(self, by: float) -> None:
        """Move all moments."""
        self.at += by
        self.ended += by if self.ended else 0.0
        for step in self.steps:
            step.at += by
            step.ended += by if step.ended else 0.0
            step.lines = step.lines and [(at + by, *rest) for at, *rest in step.lines]  # type: ignore[misc]
        for asked in (*(self.asked or ()), *(asked for step in self.steps for asked in step.asked or ())):
            asked.at += by


# All that can be changed is looked at after each plugin: the fields of a `Call` one by one, since most are class-level
# defaults. The other phase's can't be changed.


def request_changes(call: Call) -> Changes:
    """The changes to a request that are in force."""
    headers, query, response_headers = call.seen_headers, call.seen_query, call.seen_response_headers
    body = call.body
    return (
        call.path,
        None if headers is None else headers.changes.copy(),
        None if query is None else query.changes.copy(),
        None if response_headers is None else response_headers.changes.copy(),
        body if body is None else _cut(body),
        0,
        None,
    )


def response_changes(call: Call) -> Changes:
    """The changes to a response that are in force."""
    headers = call.seen_response_headers
    changed = None if headers is None else headers.changes.copy()
    return None, None, None, changed, None, call.status_change, _cut(call.response_body)


def _cut(body: bytes | None) -> Cut:
    return None if body is None else (body[:LONGEST_BODY], len(body))
