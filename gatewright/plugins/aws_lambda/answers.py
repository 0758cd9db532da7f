"""What a function returned, as an answer to the client, in the ways in which API Gateway reads it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec

from gatewright import PluginError, Response

__all__ = ["HOP_BY_HOP", "BadAnswerError", "answer_of"]

HOP_BY_HOP: Final = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade")
)  # fmt: skip
"""Headers of one connection, not of a message (RFC 9110, 7.6.1)."""
_NOT_THE_FUNCTIONS: Final = HOP_BY_HOP | {"content-length"}
_JSON: Final = {"content-type": "application/json"}


class BadAnswerError(PluginError):
    """The function returned something that is no answer."""


def answer_of(payload: bytes, form: Literal["v2", "v1", "body"]) -> Response:
    """A function's result as an answer.

    Args:
        payload: what it returned.
        form: the format of the event that it got.

    Raises:
        BadAnswerError: it isn't one of this format.
    """
    if form == "body":
        return Response(200, _JSON, payload)
    try:
        result = msgspec.json.decode(payload or b"null")
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadAnswerError(f"what the function returned is not JSON: {error}") from None
    if isinstance(result, dict) and "statusCode" in result:
        return _described(result)
    if form == "v1":
        raise BadAnswerError("what the function returned is no object with a `statusCode`")
    # Format 2.0 infers the rest: a text is the body, anything else is the body as JSON.
    return Response(200, _JSON, result.encode() if isinstance(result, str) else payload)


def _described(result: dict[str, Any]) -> Response:
    status = result["statusCode"]
    if isinstance(status, str) and status.isascii() and status.isdecimal():
        status = int(status)
    if type(status) is not int or not 200 <= status <= 599:
        raise BadAnswerError(f"the function's `statusCode` is {status!r}")
    try:
        response = Response(status, list(_headers(result)), _content(result))
    except ValueError as error:
        raise BadAnswerError(f"the function's answer can't be sent: {error}") from None
    if "content-type" not in response.headers and response.content:
        response.headers["content-type"] = _JSON["content-type"]
    return response


def _headers(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    single, multiple, cookies = (result.get(name) or {} for name in ("headers", "multiValueHeaders", "cookies"))
    if not isinstance(single, dict) or not isinstance(multiple, dict) or not isinstance(cookies, list | dict):
        raise BadAnswerError("`headers` and `multiValueHeaders` are objects, and `cookies` are a list")
    named = {name.lower(): name for name in multiple}
    for name, value in single.items():
        if name.lower() not in named and name.lower() not in _NOT_THE_FUNCTIONS:
            yield name, _value(value)
    for name, values in multiple.items():
        if name.lower() not in _NOT_THE_FUNCTIONS:
            yield from ((name, _value(value)) for value in (values if isinstance(values, list) else [values]))
    for cookie in cookies:
        yield "set-cookie", _value(cookie)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise BadAnswerError(f"a header's value is a text, not {type(value).__name__}")
    return str(value)


def _content(result: dict[str, Any]) -> bytes:
    body = result.get("body")
    if body is None:
        return b""
    if not isinstance(body, str):
        return msgspec.json.encode(body)
    if not result.get("isBase64Encoded"):
        return body.encode()
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise BadAnswerError("`isBase64Encoded` is true, but the body isn't base64") from None
