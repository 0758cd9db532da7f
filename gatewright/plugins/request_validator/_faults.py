"""What is wrong with a request, and how the client is told: as `application/problem+json` (RFC 9457), or as text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from gatewright import Response

__all__ = ["Fault", "InvalidRequestError", "answer", "pointer"]

Part = Literal["body", "query", "headers", "path", "cookies"]
_LONGEST: Final = 300
"""Characters of one message: what is wrong is quoted in it, and may be long."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        part: of the request.
        pointer: to what is wrong in it, a JSON pointer (RFC 6901).
        detail: what is wrong, for a person.
        keyword: the schema's keyword that isn't kept; empty where there is none.
    """

    part: Part
    pointer: str
    detail: str
    keyword: str = ""


class InvalidRequestError(Exception):
    """The request is not to be let through.

    Attributes:
        status: of the answer.
        title: what kind of fault it is.
        faults: all that is wrong.
        headers: of the answer.
    """

    def __init__(
        self, status: int, title: str, faults: Iterable[Fault] = (), headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.faults = tuple(faults)
        self.headers = tuple(headers)


def pointer(path: Iterable[str | int]) -> str:
    """A path as a JSON pointer."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def answer(error: InvalidRequestError, style: Literal["problem", "text"]) -> Response:
    """What the client gets."""
    if style == "text":
        details = "; ".join(_short(fault.detail) for fault in error.faults)
        return Response(error.status, error.headers, f"{error.title}: {details}" if details else error.title)
    problem = {"type": "about:blank", "title": error.title, "status": error.status, "errors": _listed(error.faults)}
    headers = [*error.headers, ("content-type", "application/problem+json")]
    return Response(error.status, headers, json.dumps(problem, ensure_ascii=False).encode("utf-8", "backslashreplace"))


def _listed(faults: Sequence[Fault]) -> list[dict[str, str]]:
    return [
        {"in": fault.part, "pointer": fault.pointer, "detail": _short(fault.detail)}
        | ({"keyword": fault.keyword} if fault.keyword else {})
        for fault in faults
    ]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
