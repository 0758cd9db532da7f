"""A runner's answers over the lean path, operation by operation (lua/gatewright/apply.lua)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from gatewright.dev.lean.client import LeanError
from gatewright.dev.messages import text_of
from gatewright.gateways.lean.gateway_side import Answered, Operation
from gatewright.gateways.lean.replies import Op

__all__ = ["LeanState", "OwnAnswer", "grouped", "status_of"]

_ADDING: Final = {Op.ADD_HEADER: Op.SET_HEADER, Op.ADD_RESPONSE_HEADER: Op.SET_RESPONSE_HEADER}


@dataclass(slots=True)
class LeanState:
    """What the lean path keeps of a request.

    Attributes:
        kept: `request.ctx`, packed by the runner.
        early: what is to be done with an answer that has not come.
        ended: variables that are known when the request has ended.
    """

    kept: bytes | None = None
    early: list[Answered] = field(default_factory=list)
    ended: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class OwnAnswer:
    """What an answer that is for the client makes up."""

    status: int | None = None
    body: bytes = b""


def grouped(operations: Iterable[Operation]) -> list[tuple[Op, str, list[str]]]:
    """Operations with all values of a header together: each with its first field, and the others.

    Raises:
        LeanError: a value without a header.
    """
    out: list[tuple[Op, str, list[str]]] = []
    for op, fields in operations:
        texts = [text_of(value) for value in fields]
        first = _ADDING.get(op)
        if first is None:
            out.append((op, texts[0], texts[1:]))
        elif out and out[-1][0] is first:
            out[-1][2].append(texts[1])
        else:
            raise LeanError("a value without a header")
    return out


def status_of(text: str) -> int:
    """A status.

    Raises:
        LeanError: it is none.
    """
    if not re.fullmatch("[2-9][0-9][0-9]", text):
        raise LeanError("a status that is none")
    return int(text)
