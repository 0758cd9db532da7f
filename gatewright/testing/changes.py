"""What plugins change of a call, as a value to look at and to compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from gatewright.call import Call

__all__ = ["Changes"]

Changed = Mapping[str, "tuple[str, ...] | None"]
"""By name: the values that it has now, or `None` where it was deleted."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What was changed; what is `None` or empty was not.

    Attributes:
        path: the request's new path.
        headers: the request's headers.
        query: the request's arguments.
        body: the request's new body.
        response_headers: headers of the answer: in the request phase those to be added to it.
        status: the answer's new status.
        response_body: the answer's new body.
    """

    path: str | None = None
    headers: Changed = field(default_factory=dict)
    query: Changed = field(default_factory=dict)
    body: bytes | None = None
    response_headers: Changed = field(default_factory=dict)
    status: int | None = None
    response_body: bytes | None = None

    @classmethod
    def of(cls, call: Call) -> Changes:
        """All that has been changed of a call so far."""
        headers, query, answer = call.seen_headers, call.seen_query, call.seen_response_headers
        return cls(
            path=call.path,
            headers=dict(headers.changes) if headers is not None else {},
            query=dict(query.changes) if query is not None else {},
            body=call.body,
            response_headers=dict(answer.changes) if answer is not None else {},
            status=max(call.status_change, 0) or None,
            response_body=call.response_body,
        )

    def since(self, earlier: Changes) -> Changes:
        """What came on top of earlier changes."""
        new: dict[str, Any] = {}
        for item in fields(self):
            now, before = getattr(self, item.name), getattr(earlier, item.name)
            if isinstance(now, dict):
                new[item.name] = {name: value for name, value in now.items() if before.get(name, ...) != value}
            elif now != before:
                new[item.name] = now
        return Changes(**new)

    def __bool__(self) -> bool:
        return bool(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Only what was changed, as plain data: bytes as text, values of a name as a list."""
        plain: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bytes):
                plain[item.name] = value.decode("utf-8", "surrogateescape")
            elif isinstance(value, dict) and value:
                plain[item.name] = {name: values and list(values) for name, values in value.items()}
            elif value is not None and not isinstance(value, dict):
                plain[item.name] = value
        return plain

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value!r}" for name, value in self.as_dict().items())
        return f"Changes({told})"
