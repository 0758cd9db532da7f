"""What is asked of which requests: by the configuration's own schemas, or by an OpenAPI document's operations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gatewright import Request
from gatewright.plugins._shared.credentials import cookie_values
from gatewright.plugins.request_validator._faults import Fault, InvalidRequestError, Part, pointer
from gatewright.plugins.request_validator._models import Model
from gatewright.plugins.request_validator._schemas import Schema
from gatewright.plugins.request_validator._shapes import Shape

__all__ = ["Body", "Operation", "Operations", "Parameters", "template"]

_CAPTURE = {"*": "(.*)"}
_VARIABLE = re.compile(r"\{([^{}/]+)\}")


@dataclass(frozen=True, slots=True)
class Parameters:
    """What of one part of a request, other than its body, is looked at.

    Attributes:
        part: of the request.
        schema: of all of them together, as an object.
        shape: of that object.
        lists: names whose values are one text with commas between them.
    """

    part: Part
    schema: Schema
    shape: Shape
    lists: frozenset[str] = frozenset()

    def values(self, request: Request, captured: Mapping[str, str]) -> dict[str, Any]:
        """The part of a request as an object, each value as what its text stands for.

        Raises:
            InvalidRequestError: there are bytes that are no text.
        """
        value = {}
        for name, texts in self._texts(request, captured).items():
            if not all(_is_utf8(text) for text in (name, *texts)):
                fault = Fault(self.part, pointer([name.encode("utf-8", "replace").decode()]), "it is not UTF-8")
                raise InvalidRequestError(400, "The request is not valid", [fault])
            if name in self.lists:
                texts = [each.strip() for text in texts for each in text.split(",")]
            value[name] = self.shape.properties.get(name, Shape()).of_texts(texts)
        return value

    def _texts(self, request: Request, captured: Mapping[str, str]) -> dict[str, list[str]]:
        if self.part == "path":
            return {name: [text] for name, text in captured.items()}
        if self.part == "query":
            return {name: request.query.get_all(name) for name in request.query}
        if self.part == "cookies":
            found = {name: cookie_values(request, name) for name in self.shape.properties}
        else:  # several of one name are one, with commas between them (RFC 9110, 5.2)
            headers = request.headers
            found = {name: [", ".join(headers.get_all(name))] for name in self.shape.properties if name in headers}
        return {name: texts for name, texts in found.items() if texts}


def _is_utf8(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


@dataclass(frozen=True, slots=True)
class Body:
    """What a body of one media type has to be: what a schema says, or a model, or anything."""

    schema: Schema | None = None
    shape: Shape = field(default_factory=Shape)
    model: Model | None = None

    def faults(self, value: Any, most: int) -> list[Fault]:
        """What of a body doesn't suit the schema."""
        return [] if self.schema is None else self.schema.faults("body", value, most)


@dataclass(frozen=True, slots=True)
class Operation:
    """What is asked of a request.

    Attributes:
        parameters: of its parts other than the body.
        bodies: by media type, or range of them; none: the body isn't looked at.
        needs_body: a request without a body is refused.
        methods: and one with one of these methods.
    """

    parameters: Sequence[Parameters] = ()
    bodies: Mapping[str, Body] = field(default_factory=dict)
    needs_body: bool = False
    methods: frozenset[str] = frozenset()

    def body(self, media: str, kind: str) -> Body | None:
        """What is asked of a body of a media type; `None` where that type isn't taken."""
        for each in (media, kind, f"{media.partition('/')[0]}/*", "*/*"):
            if each in self.bodies:
                return self.bodies[each]
        return None


def template(path: str) -> re.Pattern[str]:
    """A path with `{names}` as a pattern; each name stands for something without a slash."""
    pieces = _VARIABLE.split(path)
    return re.compile("".join(_CAPTURE.get(piece, "([^/]+)") if number % 2 else re.escape(piece)
                              for number, piece in enumerate(pieces)), re.DOTALL)  # fmt: skip


class Operations:
    """Operations by path and method."""

    def __init__(self, by_path: Mapping[str, Mapping[str, Operation]], *, base_path: str = "") -> None:
        """Take them in.

        Args:
            by_path: operations by path, with `{names}`, and by method; the method `*` is any.
            base_path: what stands before all paths.
        """
        # The more of a path is fixed, the sooner it is tried (OpenAPI 3.1, 4.8.8.2).
        ordered = sorted(by_path.items(), key=lambda item: (len(_VARIABLE.findall(item[0])), -len(item[0])))
        self._paths = [
            (template(base_path.rstrip("/") + path), _VARIABLE.findall(path), methods) for path, methods in ordered
        ]

    def find(self, method: str, path: str) -> tuple[Operation, dict[str, str]] | None:
        """The operation of a request, and what its path's names stand for; `None` where there is no such path.

        Raises:
            InvalidRequestError: the path is there, but not with this method.
        """
        allowed: set[str] = set()
        for pattern, names, methods in self._paths:
            found = pattern.fullmatch(path)
            if found is None:
                continue
            operation = methods.get(method) or methods.get("*")
            if operation is None and method == "HEAD":
                operation = methods.get("GET")
            if operation is not None:
                return operation, dict(zip(names, found.groups(), strict=True))
            allowed |= methods.keys()
        if allowed:
            raise InvalidRequestError(
                405, "This method is not allowed here", (), [("allow", ", ".join(sorted(allowed)))]
            )
        return None
