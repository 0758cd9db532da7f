"""What a body can be made of, and what it says as JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from gatewright.errors import NotJsonError

__all__ = ["content_of", "read_json"]


def read_json(body: bytes, whose: str) -> Any:
    """What a body says.

    Args:
        body: the body.
        whose: for the error: `the request's body`, say.

    Raises:
        NotJsonError: it is not JSON; the message says where, and nothing of the content.
    """
    if not body:
        raise NotJsonError(f"{whose} is empty, where JSON is expected")
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotJsonError(f"{whose} is not JSON: {error}") from None
    except RecursionError:
        raise NotJsonError(f"{whose} is not JSON that can be read: it is nested too deeply") from None


def content_of(body: object) -> bytes:
    """A body's bytes; nothing is guessed: `bytes(12)`, say, would be twelve NULs.

    Raises:
        TypeError: it is nothing that a body can be made of.
    """
    if isinstance(body, str):
        return body.encode("utf-8", "surrogateescape")
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    raise TypeError(f"a body is bytes or str, not {type(body).__name__}")
