"""What a runner tells of a call (`runtime.records`), read into the form that records have.

The runner tells which names were changed and to what; what they were before, the gateway knows: it sent the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gatewright.dev.trail import Phase, body_form
from gatewright.runtime.records import Asked, Changes, StepRecord

__all__ = ["plugins_of"]

_ENDS = ("answered", "failed", "timed out", "abandoned", "not called")


def plugins_of(phase: Phase, began: float, body: Any = None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What each plugin of a phase did, and what was asked for none of them.

    Args:
        phase: with what the runner told of it, if it did.
        began: when the request began, as `time.time` has it.
        body: what plugins would have got for the body, the request's or the upstream's, if that was read.
    """
    if phase.uncalled:
        return [_uncalled(name, config, phase.uncalled) for name, config in phase.plugins], []
    if phase.record is None:
        return [_untold(name, config) for name, config in phase.plugins], phase.asked
    told, state = phase.record, _State(phase, body)
    plugins = [
        _plugin(step, ended, began, state)
        for step, ended in zip(told.steps, (*(step.at for step in told.steps[1:]), told.ended), strict=False)
    ]
    if phase.carries_out:  # one plugin at a time
        for plugin in plugins:
            plugin["changes"], plugin["asked"] = phase.made, phase.asked
    plugins += _unreached(phase.plugins, plugins)
    return plugins, [_asked(each, began) for each in told.asked or ()]


def _untold(name: str, config: str) -> dict[str, Any]:
    return {
        "name": name, "config": config, "outcome": "unknown", "why": "the runner told nothing of it",
        "at": None, "seconds": None, "changes": [], "asked": [], "log": [], "error": None, "answer": None,
    }  # fmt: skip


def _uncalled(name: str, config: str, why: str) -> dict[str, Any]:
    return {**_untold(name, config), "outcome": "not called", "why": why}


def _unreached(named: Sequence[tuple[str, str]], ran: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Plugins that the configuration names and that were not called; the others get their configuration."""
    left = list(named)
    for plugin in ran:
        found = next((entry for entry in left if entry[0] == plugin["name"]), None)
        if found is not None:
            left.remove(found)
            plugin["config"] = found[1]
    last = ran[-1] if ran else None
    ended = last is not None and last["outcome"] in _ENDS
    out = []
    for name, config in left:
        why = (
            f"not reached: {last['name']} {_WORDS[last['outcome']]}" if ended and last else "no handler for this phase"
        )
        out.append(_uncalled(name, config, why))
    return out


_WORDS: Mapping[str, str] = {
    "answered": "answered the client", "failed": "failed", "timed out": "took too long", "abandoned": "was given up",
    "not called": "can't be used",
}  # fmt: skip


def _plugin(step: StepRecord, ended: float, began: float, state: _State) -> dict[str, Any]:
    ended = step.ended or ended
    answer = step.answer
    return {
        "name": step.name,
        "config": "{}",
        "outcome": step.outcome,
        "why": step.why,
        "at": step.at - began,
        "seconds": ended - step.at if ended else -1.0,
        "changes": state.take(step.changes) if step.changes is not None else [],
        "asked": [_asked(each, began) for each in step.asked or ()],
        "log": [
            {"at": at - began, "level": level, "text": text, "fields": fields}
            for at, level, text, fields in step.lines or ()
        ],
        "error": step.failure,
        "answer": None if answer is None else {
            "status": answer[0], "headers": [list(pair) for pair in answer[1]], "body": body_form(*answer[2] or (b"",)),
        },
    }  # fmt: skip


def _asked(asked: Asked, began: float) -> dict[str, Any]:
    answer: Any = asked.answer
    is_text = asked.what == "var" and answer is not None
    shown = answer.decode("utf-8", "surrogateescape") if is_text else body_form(answer, asked.size)
    return {
        "at": asked.at - began, "seconds": asked.seconds, "what": asked.what, "name": asked.name, "answer": shown,
        "error": asked.error,
    }  # fmt: skip


class _State:
    """The changes in force while plugins run one after another."""

    def __init__(self, phase: Phase, body: Any) -> None:
        came = phase.came
        is_request = phase.name == "request"
        headers = _table(came.get("headers", ()))
        self._before: dict[str, Any] = {
            "path": came.get("path"),
            "body": body if is_request else None,
            "status": came.get("status"),
            "response body": None if is_request else body,
        }
        self._tables = {
            "header": headers if is_request else {},
            "query": _table(came.get("query", ()), fold=False),
            "response header": {} if is_request else headers,
        }
        self._original = {of: dict(table) for of, table in self._tables.items()}

    def take(self, changes: Changes) -> list[dict[str, Any]]:
        """All changes in force now; gives what they add to those of before."""
        path, headers, query, response_headers, body, status, response_body = changes
        out: list[dict[str, Any]] = []
        single = {
            "path": path, "body": body and body_form(*body), "status": status or None,
            "response body": response_body and body_form(*response_body),
        }  # fmt: skip
        for of, value in single.items():
            if value is not None and value != self._before[of]:
                out.append({"of": of, "name": "", "before": self._before[of], "after": value})
                self._before[of] = value
        for of, changed in (("header", headers), ("query", query), ("response header", response_headers)):
            now = {**self._original[of], **{name: list(values or ()) for name, values in (changed or {}).items()}}
            table = self._tables[of]
            for name in dict.fromkeys([*table, *now]):
                if (table.get(name) or None) != (now.get(name) or None):
                    out.append({
                        "of": of, "name": name, "before": table.get(name) or None, "after": now.get(name) or None,
                    })  # fmt: skip
            self._tables[of] = now
        return out


def _table(entries: Any, *, fold: bool = True) -> dict[str, list[Any]]:
    table: dict[str, list[Any]] = {}
    for name, value in entries:
        table.setdefault(name.lower() if fold else name, []).append(value)
    return table
