"""The line that a development gateway logs of each request: what became of it, how long it took, who stopped it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Final

from gatewright.dev.messages import Answer, ClientRequest
from gatewright.dev.trail import Trail, current_trail
from gatewright.redaction import redact

__all__ = ["tell_request"]

_LOOK_SECONDS: Final = 0.005
_LOOKS: Final = 60
"""How often it's looked whether the runner has told of the call, which it does on another connection."""
_WORTH_A_WORD: Final = {
    "answered": "answered",
    "failed": "failed",
    "timed out": "took too long",
    "skipped": "failed and was skipped",
    "not called": "can't be used",
}

log = logging.getLogger("gatewright.dev")


def tell_request(request: ClientRequest, answer: Answer) -> None:
    """Log it, once the runner has told of it, where somebody follows requests, and at once otherwise."""
    line = f"{request.method} {request.target} -> {answer.status or 'closed without an answer'}"
    trail = current_trail()
    if trail is None:
        log.info("%s", line)
        return
    line = f"{line}, {trail.now() * 1000:.3g} ms"
    _tell_later(trail, redact(line), _LOOKS)


def _tell_later(trail: Trail, line: str, looks: int) -> None:
    if looks and any(phase.record is None and phase.ticket is not None for phase in trail.phases):
        asyncio.get_running_loop().call_later(_LOOK_SECONDS, _tell_later, trail, line, looks - 1)
        return
    log.info("%s", ", ".join([line, *dict.fromkeys(_words(trail))]))


def _words(trail: Trail) -> Iterator[str]:
    """Who answered or failed; why, where it was no plugin."""
    for phase in trail.phases:
        steps = phase.record.steps if phase.record is not None else ()
        of_plugins = [f"{step.name} {_WORTH_A_WORD[step.outcome]}" for step in steps if step.outcome in _WORTH_A_WORD]
        yield from of_plugins
        why = (phase.record.refused if phase.record is not None else "") or phase.error
        if why and not of_plugins:
            yield redact(why)
