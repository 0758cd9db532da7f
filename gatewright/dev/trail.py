"""What a development gateway writes down about a request on its way: what it sent, was told, and made of it.

A gateway's code asks `current_trail()` and `current_phase()`, which give `None` where nobody looks. Who looks is the
inspector, which begins a trail for each request and turns it into a record (`docs/inspector.md` has its form).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from time import perf_counter, time
from typing import Any, Final

from gatewright.dev.messages import ClientRequest
from gatewright.runtime.records import CallRecord

__all__ = ["Phase", "Sent", "Trail", "body_form", "changes_between", "current_phase", "current_trail"]

LONGEST_BODY: Final = 1 << 16
"""Bytes of a body that are kept."""
_MOST_NOTES: Final = 200
_MOST_PHASES: Final = 200
_MOST_ASKED: Final = 500
_MOST_LONG: Final = 16
"""Answers of a phase of which all that may be kept is kept; beyond, little of each."""
_SHORT: Final = 256
_PLAIN: Final = frozenset(range(0x20, 0x7F)) | {0x09, 0x0A, 0x0D}

TRAIL: ContextVar[Trail | None] = ContextVar("gatewright_trail", default=None)
PHASE: ContextVar[Phase | None] = ContextVar("gatewright_trail_phase", default=None)

Values = Sequence["str | None"]
Ticket = tuple[str, int]


def current_trail() -> Trail | None:
    """The trail of the request that is served, if anybody looks."""
    return TRAIL.get()


def current_phase() -> Phase | None:
    """The phase in which plugins are asked just now, if anybody looks."""
    return PHASE.get()


class Trail:
    """What became of one request so far.

    Attributes:
        number: which request it is, counted from 1.
        body_came: the request's body has been read; until somebody wants it, it isn't.
        replay_of: which one it repeats, if it does.
        open: how much is still to come that runs after the answer.
        lost: the runner did not tell of all.
        on_ticket: told of a phase that the runner will tell of, and of the ticket that it had before, if it had one.
        on_end: told when something that runs after the answer has ended.
    """

    def __init__(self, number: int, request: ClientRequest) -> None:
        self.number = number
        self.request = request
        self.body_came = request.upload is None
        self.at = time()
        self.began = perf_counter()
        self.seconds = -1.0
        self.replay_of: int | None = None
        self.route: dict[str, Any] | None = None
        self.phases: list[Phase] = []
        self.sent: list[Sent] = []
        self.notes: list[dict[str, Any]] = []
        self.answer: dict[str, Any] | None = None
        self.lost = False
        self.open = 0
        self.on_ticket: Callable[[Trail, Phase, Ticket | None], None] = lambda _trail, _phase, _before: None
        self.on_end: Callable[[Trail], None] = lambda _trail: None

    def now(self) -> float:
        """Seconds since its begin."""
        return perf_counter() - self.began

    def phase(self, name: str, stage: str, plugins: Sequence[tuple[str, str]], key: str) -> Phase:
        """Plugins are about to be asked; see `Phase`."""
        phase = Phase(self, name, stage, plugins, key)
        if len(self.phases) < _MOST_PHASES:
            self.phases.append(phase)
        return phase

    def send(self, address: str, method: str, target: str, headers: Any, body: bytes) -> Sent:
        """A request goes upstream."""
        sent = Sent(self.now(), address, method, target, list(headers), body_form(body))
        self.sent.append(sent)
        return sent

    def note(self, level: str, text: str) -> None:
        """The gateway has something to say."""
        phase = PHASE.get()
        notes = self.notes if phase is None else phase.notes
        if len(notes) < _MOST_NOTES:
            notes.append({"at": self.now(), "level": level, "text": text})


class Sent:
    """A request to the upstream, and what came back."""

    def __init__(self, at: float, address: str, method: str, target: str, headers: Any, body: Any) -> None:
        self.at = at
        self.form: dict[str, Any] = {
            "at": at, "seconds": -1.0, "address": address, "method": method, "target": target, "headers": headers,
            "body": body, "answer": None, "error": None,
        }  # fmt: skip
        self._began = perf_counter()

    def answered(self, status: int, reason: str, headers: Any, body: bytes, *, complete: bool) -> None:
        """An answer came."""
        self.form["seconds"] = perf_counter() - self._began
        self.form["answer"] = {
            "status": status, "reason": reason, "headers": list(headers), "body": body_form(body), "complete": complete,
        }  # fmt: skip

    def failed(self, error: str) -> None:
        """None came."""
        self.form["seconds"] = perf_counter() - self._began
        self.form["error"] = error


class Phase:
    """Plugins are asked about a request or a response.

    Attributes:
        name: of the runner's handlers: `request`, `response`, or one of Kong's phases.
        stage: what the gateway calls it, `ext-plugin-pre-req` say.
        plugins: those that the configuration names, in order, each with its configuration.
        key: the gateway's key of the configuration.
        ticket: by what the runner knows the call.
        carries_out: the gateway carries each change out at once (Kong), so that `made` is what the plugin changed.
        came: what the runner was shown, or could have asked for.
        asked: what it asked in the middle, as its record has it.
        reply: what it said.
        made: what the gateway then changed.
        record: what the runner tells of it, once it has.
        error: why the call failed, in the gateway's words.
        uncalled: why the gateway didn't ask its plugins at all.
    """

    def __init__(self, trail: Trail, name: str, stage: str, plugins: Sequence[tuple[str, str]], key: str) -> None:
        self._trail = trail
        self.name, self.stage, self.plugins, self.key = name, stage, plugins, key
        self.at = trail.now()
        self.seconds = -1.0
        self.ticket: Ticket | None = None
        self.token: int | None = None
        self.carries_out = False
        self.came: dict[str, Any] = {}
        self.asked: list[dict[str, Any]] = []
        self.reply: dict[str, Any] | None = None
        self.made: list[dict[str, Any]] = []
        self.notes: list[dict[str, Any]] = []
        self.record: CallRecord | None = None
        self.error = ""
        self.uncalled = ""

    def __enter__(self) -> Phase:
        self._token = PHASE.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        PHASE.reset(self._token)
        self.seconds = self._trail.now() - self.at

    def expect(self, name: str, number: int) -> None:
        """The runner knows the call by this, and will tell of it."""
        before, self.ticket = self.ticket, (name, number)
        self._trail.on_ticket(self._trail, self, before)

    def ask(self, what: str, name: str, answer: Any, took: float, error: str = "") -> None:
        """A question was answered, `took` seconds after it came."""
        if len(self.asked) >= _MOST_ASKED:
            return
        if len(self.asked) >= _MOST_LONG:
            answer = _shortened(answer)
        at = self._trail.now() - took
        self.asked.append({"at": at, "seconds": took, "what": what, "name": name, "answer": answer, "error": error})


def _shortened(answer: Any) -> Any:
    if isinstance(answer, dict) and "size" in answer:
        kept = {name: text[:_SHORT] for name, text in answer.items() if name in ("text", "base64")}
        return {"size": answer["size"], **kept, **({"cut": True} if answer["size"] > _SHORT else {})}
    return answer[:_SHORT] if isinstance(answer, str) else answer


def body_form(body: bytes | None, size: int | None = None) -> dict[str, Any] | None:
    """A body as records have it: its size, and its text, or the bytes in base64 where it is none.

    Args:
        body: the body, or its beginning.
        size: of the whole body, if that was only its beginning.
    """
    if body is None:
        return None
    whole = len(body) if size is None else size
    kept = body[:LONGEST_BODY]
    form: dict[str, Any] = {"size": whole}
    text: str | None
    try:
        text = kept.decode()
    except UnicodeDecodeError as error:
        # A cut in the middle of a character is no reason to show the rest as bytes.
        text = kept[: error.start].decode() if len(kept) < whole and error.start > len(kept) - 4 else None
    if text is None or any(ord(char) < 0x20 and ord(char) not in _PLAIN for char in text[:2000]):
        form["base64"] = base64.b64encode(kept).decode()
    else:
        form["text"] = text
    if whole > len(kept):
        form["cut"] = True
    return form


def changes_between(
    of: str, before: Mapping[str, Values] | Iterable[tuple[str, Any]], after: Mapping[str, Values] | Iterable[Any]
) -> list[dict[str, Any]]:
    """What differs between two sets of named values, such as headers.

    Args:
        of: what they are.
        before: names and values, or names and lists of them.
        after: the same later.
    """
    old, new = _by_name(before), _by_name(after)
    return [
        {"of": of, "name": name, "before": old.get(name), "after": new.get(name)}
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def _by_name(values: Any) -> dict[str, list[Any]]:
    if isinstance(values, Mapping):
        return {name: list(items) for name, items in values.items()}
    table: dict[str, list[Any]] = {}
    for name, value in values:
        table.setdefault(name.lower(), []).append(value)
    return table
