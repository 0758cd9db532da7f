"""Reading bodies: JSON, forms, multipart. What two readers might read in two ways is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import msgspec
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from gatewright.plugins._shared.strict_json import STRICT_JSON
from gatewright.plugins.request_validator._faults import Fault, InvalidRequestError
from gatewright.plugins.request_validator._shapes import Shape

__all__ = [
    "FORM",
    "JSON",
    "MULTIPART",
    "encode_form",
    "is_utf8",
    "kind_of",
    "media_type",
    "read_form",
    "read_json",
    "read_multipart",
    "rewritten_json",
]

JSON: Final = "application/json"
FORM: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/form-data"
_CHARSET: Final = re.compile(r"charset(?:\*\d*)*\s*=\s*[\"']*(?:[\w-]+'[\w-]*')?([^\s;,\"']*)")
_UTF8: Final = frozenset(("", "utf-8", "utf8", "us-ascii"))
_MOST_FIELDS: Final = 1000


def media_type(content_type: str) -> str:
    """The media type of a header's value, in lower case and without parameters."""
    return content_type.partition(";")[0].strip().lower()


def is_utf8(content_type: str) -> bool:
    """Whether a text in UTF-8 is what everybody reads, however they look for `charset` in that header's value."""
    return all(found[1] in _UTF8 for found in _CHARSET.finditer(content_type.lower()))


def kind_of(media: str) -> str:
    """How a media type's bodies are read: one of `JSON`, `FORM` and `MULTIPART`; or itself, where nobody knows."""
    return JSON if media.endswith("+json") else media


def read_json(body: bytes, max_depth: int, title: str = "The body is not valid JSON") -> Any:
    """A JSON text's value.

    Raises:
        InvalidRequestError: it is none, is nested too deep, or names something twice.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _malformed(title, f"it is not UTF-8, at byte {error.start}") from None
    try:
        value = STRICT_JSON.decode(text)
    except json.JSONDecodeError as error:
        raise _malformed(title, f"{error.msg}, at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _too_deep(max_depth) from None
    except ValueError as error:
        raise _malformed(title, str(error)) from None
    if "\\u" in text and not _is_text(value):
        raise _malformed(title, "it holds half of a surrogate pair")
    if text.count("[") + text.count("{") > max_depth and _is_deeper(value, max_depth):
        raise _too_deep(max_depth)
    return value


def rewritten_json(body: bytes, change: Callable[[Any], object]) -> bytes:
    """A JSON text that `read_json` took, with a change; numbers stay as they are written, with all their digits.

    Args:
        body: the text.
        change: changes its value in place.
    """
    value = _AS_WRITTEN.decode(body.decode("utf-8"))
    change(value)
    return _encode(value)


_AS_WRITTEN: Final = json.JSONDecoder(parse_float=Decimal)
_encode = msgspec.json.Encoder(decimal_format="number").encode


def _is_text(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _malformed(title: str, detail: str) -> InvalidRequestError:
    return InvalidRequestError(400, title, [Fault("body", "", detail)])


def _too_deep(max_depth: int) -> InvalidRequestError:
    return InvalidRequestError(
        400, "The body is nested too deep", [Fault("body", "", f"{max_depth} levels are the most")]
    )


def _is_deeper(value: Any, depth: int) -> bool:
    level = [value]
    while level:
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += each.values()
            elif isinstance(each, list):
                inner += each
        if depth == 0 and any(isinstance(each, dict | list) for each in level):
            return True
        level, depth = inner, depth - 1
    return False


# --- forms


def read_form(body: bytes, shape: Shape) -> dict[str, Any]:
    """A form's fields, each as what its text stands for.

    Raises:
        InvalidRequestError: it is none, or has too many fields.
    """
    title = "The body is not a form"
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=bool(body), errors="strict",
            max_num_fields=_MOST_FIELDS,
        )  # fmt: skip
    except ValueError as error:
        raise _malformed(title, str(error)) from None
    return _shaped(pairs, shape)


def encode_form(value: Mapping[str, Any]) -> bytes:
    """A form of these fields."""
    pairs = [
        (name, each if isinstance(each, str) else "" if each is None else json.dumps(each))
        for name, values in value.items()
        for each in (values if isinstance(values, list) else [values])
    ]
    return urlencode(pairs).encode()


def _shaped(pairs: Sequence[tuple[str, str]], shape: Shape) -> dict[str, Any]:
    grouped: dict[str, list[str]] = {}
    for name, value in pairs:
        grouped.setdefault(name, []).append(value)
    return {name: shape.properties.get(name, Shape()).of_texts(values) for name, values in grouped.items()}


def read_multipart(body: bytes, content_type: str, shape: Shape) -> dict[str, Any]:
    """The fields of a multipart form. A file is an object with its `filename`, `content_type` and `size` in bytes.

    Raises:
        InvalidRequestError: it is none, or has too many parts.
    """
    title = "The body is not a multipart form"
    boundary = parse_options_header(content_type)[1].get("boundary", "")
    if not boundary:
        raise _malformed(title, "its content-type has no boundary")
    texts: list[tuple[str, str]] = []
    files: dict[str, list[dict[str, Any]]] = {}
    try:
        with PushMultipartParser(boundary, max_segment_count=_MOST_FIELDS, strict=True) as parser:
            segment: MultipartSegment | None = None
            content = bytearray()
            for event in parser.parse(body):
                if isinstance(event, MultipartSegment):
                    segment, content = event, bytearray()
                elif event is not None:
                    content += event
                elif segment is not None:
                    _take(segment, content, texts, files)
    except (MultipartError, ValueError) as error:
        raise _malformed(title, str(error)) from None
    value = _shaped(texts, shape)
    for name, listed in files.items():
        if name in value:
            raise _malformed(title, f"{name!r} is a field and a file")
        is_list = len(listed) > 1 or "array" in shape.properties.get(name, Shape()).types
        value[name] = listed if is_list else listed[0]
    return value


def _take(
    segment: MultipartSegment, content: bytearray, texts: list[tuple[str, str]], files: dict[str, list[dict[str, Any]]]
) -> None:
    if segment.filename is None:
        texts.append((segment.name, content.decode("utf-8")))
        return
    file = {"filename": segment.filename, "content_type": segment.content_type, "size": len(content)}
    files.setdefault(segment.name, []).append(file)
