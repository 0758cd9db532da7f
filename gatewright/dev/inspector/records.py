"""The record of a request, as it is kept, shown and written: plain values for JSON (its form: `docs/inspector.md`)."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

from gatewright.dev.inspector.steps import plugins_of
from gatewright.dev.messages import ClientRequest
from gatewright.dev.trail import Phase, Trail, body_form
from gatewright.redaction import redact, redact_fields

__all__ = ["VERSION", "as_line", "record_of", "redacted", "summary_of"]

VERSION: Final = 1
"""Of the form. It is raised when a reader of the form before would misread it; fields may be added without."""
_STOPS: Final = ("answered",)
_FAILS: Final = ("failed", "timed out", "abandoned", "not called")


def record_of(trail: Trail, gateway: Mapping[str, str]) -> dict[str, Any]:
    """The record of a request.

    Args:
        trail: what became of it so far.
        gateway: what the gateway is: `name`, `version`.
    """
    request = trail.request
    return {
        "version": VERSION,
        "id": trail.number,
        "gateway": dict(gateway),
        "at": trail.at,
        "seconds": trail.seconds,
        "replay_of": trail.replay_of,
        "request": _request(request, trail.body_came),
        "route": trail.route,
        "phases": _phases(trail),
        "upstream": [sent.form for sent in trail.sent],
        "answer": trail.answer,
        "notes": trail.notes,
        "unrecorded": trail.lost,
    }


def _request(request: ClientRequest, body_came: bool) -> dict[str, Any]:
    return {
        "method": request.method,
        "target": request.target,
        "headers": [list(pair) for pair in request.headers],
        "body": body_form(request.body) if request.framing != "none" and body_came else None,
        "framing": request.framing,
        "http": request.version,
        "client_ip": request.client_ip,
    }


def _phases(trail: Trail) -> list[dict[str, Any]]:
    body = body_form(trail.request.body) if trail.body_came else None
    out = []
    for phase in trail.phases:
        answers = [sent.form["answer"] for sent in trail.sent if sent.form["answer"] and sent.at <= phase.at]
        came = body if phase.name == "request" else answers[-1]["body"] if answers else None
        out.append(_phase(phase, trail.at, came))
        body = next((change["after"] for change in phase.made if change["of"] == "body"), body)
    return out


def _phase(phase: Phase, began: float, body: Any) -> dict[str, Any]:
    plugins, asked = plugins_of(phase, began, body)
    return {
        "name": phase.name,
        "stage": phase.stage,
        "at": phase.at,
        "seconds": phase.seconds,
        "key": phase.key,
        "token": phase.token,
        "came": phase.came,
        "plugins": plugins,
        "asked": asked,
        "reply": phase.reply,
        "made": phase.made,
        "refused": phase.record.refused if phase.record is not None else "",
        "error": phase.error,
        "notes": phase.notes,
    }


def summary_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a list of calls shows of one; without secrets."""
    plugins: dict[str, str] = {}
    for phase in record["phases"]:
        for plugin in phase["plugins"]:
            before = plugins.get(plugin["name"])
            if before is None or _weight(plugin["outcome"]) > _weight(before):
                plugins[plugin["name"]] = plugin["outcome"]
    failed = any(outcome in ("failed", "timed out", "abandoned", "skipped") for outcome in plugins.values())
    refused = any(phase["error"] or phase["refused"] for phase in record["phases"])
    stopped = any(outcome == "answered" for outcome in plugins.values())
    answer = record["answer"]
    return {
        "id": record["id"],
        "at": record["at"],
        "seconds": record["seconds"],
        "method": record["request"]["method"],
        "target": redact(record["request"]["target"][:2000]),
        "status": answer["status"] if answer else None,
        "plugins": plugins,
        "mark": "failed" if failed or refused else "stopped" if stopped else "",
        "notes": len(record["notes"]) + sum(len(phase["notes"]) for phase in record["phases"]),
        "replay_of": record["replay_of"],
    }


def _weight(outcome: str) -> int:
    order = ("not called", "unknown", "went on", "skipped", "answered", "abandoned", "timed out", "failed")
    return order.index(outcome) if outcome in order else 0


def as_line(record: Mapping[str, Any]) -> str:
    """A record as one line of JSON. Bytes that are no UTF-8 are escapes such as `\\udcff` (`surrogateescape`)."""
    return json.dumps(record, separators=(",", ":"))


def redacted(value: Any, name: str = "") -> Any:
    """A record, or a part of one, with secrets blacked out: by the names of headers and fields, and by their look."""
    if isinstance(value, str):
        return redact_fields(value, name)
    if isinstance(value, Mapping):
        if "name" in value and ("of" in value or "what" in value):  # a change, a question
            named = _plain_name(str(value["name"]))
            return {
                key: redacted(item, named if key in ("before", "after", "answer") else "")
                for key, item in value.items()
            }
        if isinstance(value.get("base64"), str) and "size" in value:  # a body
            return {**value, "base64": _redacted_base64(value["base64"], name)}
        return {key: redacted(item, name if key == "text" else str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if name in ("headers", "query"):
            return [[pair[0], redacted(pair[1], str(pair[0]))] for pair in value]
        return [redacted(item, name) for item in value]
    return value


def _redacted_base64(text: str, name: str) -> str:
    """The same for bytes: as if they were text, and in base64 again."""
    body = base64.b64decode(text).decode("latin-1")
    shown: str = redact_fields(body, name)
    return text if shown == body else base64.b64encode(shown.encode("latin-1")).decode()


def _plain_name(name: str) -> str:
    """Variables such as `http_authorization` and `cookie_session` by what they are about."""
    return "cookie" if name.startswith("cookie_") else name
