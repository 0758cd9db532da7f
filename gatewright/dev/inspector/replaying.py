"""Sending a recorded request again, as it was or with edits, through the gateway's own door."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gatewright.dev.inspector.exports import body_bytes
from gatewright.dev.inspector.inspector import Inspector
from gatewright.dev.messages import raw
from gatewright.errors import GatewrightError
from gatewright.redaction import REDACTED

__all__ = ["ReplayError", "replay"]

_SECONDS: Final = 70.0
_BREAKS: Final = re.compile(r"[\r\n\0]")


class ReplayError(GatewrightError):
    """The request can't be sent again; the message says why."""


async def replay(inspector: Inspector, host: str, port: int, number: int, edits: Mapping[str, Any]) -> int:
    """Send a request again; gives the number of the new record.

    Args:
        inspector: has the record, and will have the new one.
        host: the gateway's.
        port: the gateway's.
        number: which record.
        edits: any of `method`, `target`, `headers`, `body` (text); a header that is blacked out stays as it was.

    Raises:
        ReplayError: there is no such record, or the request can't be sent.
    """
    record = inspector.book.get(number)
    if record is None:
        raise ReplayError(f"call {number} is no longer kept")
    data = _request(record["request"], edits)
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        raise ReplayError(f"the gateway can't be reached: {error.strerror or error}") from None
    try:
        shown = inspector.expect_replay(writer.get_extra_info("sockname")[1], number)
        writer.write(data)
        answered = asyncio.ensure_future(reader.read(1 << 16))
        await asyncio.wait((shown, answered), timeout=_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not shown.done():
            # An answer, and no record of it, say: that was no request to the gateway.
            await asyncio.wait((shown,), timeout=1.0)
        if not shown.done():
            came = answered.result()[:200] if answered.done() else b""
            first = came.partition(b"\r\n")[0].decode(errors="replace")
            raise ReplayError(f"the gateway did not take it for a request: {first or 'no answer'}")
        answered.cancel()
        return shown.result()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _request(recorded: Mapping[str, Any], edits: Mapping[str, Any]) -> bytes:
    method, target = _text(edits, "method", recorded["method"]), _text(edits, "target", recorded["target"])
    if REDACTED in target and "target" in edits:
        raise ReplayError("the target is blacked out: reveal the call first, or leave the target as it is")
    headers = _headers(edits.get("headers"), recorded["headers"])
    if "body" in edits:
        if not isinstance(edits["body"], str):
            raise ReplayError("a body is edited as text")
        body = edits["body"].encode("utf-8", "surrogateescape")
    else:
        if (recorded["body"] or {}).get("cut"):
            raise ReplayError("the body was kept in part only: send another one")
        body = body_bytes(recorded["body"])
    headers = [pair for pair in headers if pair[0].lower() not in ("content-length", "transfer-encoding", "connection")]
    if body or recorded["body"] is not None:
        headers.append(("Content-Length", str(len(body))))
    for text in (method, target, *(part for pair in headers for part in pair)):
        if _BREAKS.search(text):
            raise ReplayError(f"a line break can't be sent: {text[:100]!r}")
    if not method or not target or " " in method + target:
        raise ReplayError("method and target must be there, without blanks")
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
    return raw(head) + body


def _text(edits: Mapping[str, Any], name: str, before: str) -> str:
    value = edits.get(name, before)
    if not isinstance(value, str):
        raise ReplayError(f"{name} is text")
    return value


def _headers(edited: Any, recorded: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    if edited is None:
        return [(name, value) for name, value in recorded]
    left = [(name.lower(), value) for name, value in recorded]
    out: list[tuple[str, str]] = []
    for pair in edited:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise ReplayError("headers are pairs of name and value")
        name, value = pair
        kept = next((entry for entry in left if entry[0] == name.lower()), None)
        if kept is not None:
            left.remove(kept)
        if REDACTED in value:
            if kept is None:
                raise ReplayError(f"the value of {name} is blacked out: type the real one")
            value = kept[1]
        out.append((name, value))
    return out
