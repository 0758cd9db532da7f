"""Bodies that the PDK reads and writes as tables: forms, JSON, multipart."""

from __future__ import annotations

import email
import email.policy
import json
import secrets
from typing import Any
from urllib.parse import urlencode

from gatewright.dev.kong.values import NULL, LuaError
from gatewright.dev.nginx import parse_args

__all__ = ["read_body", "write_body"]

_FORM = "application/x-www-form-urlencoded"
_JSON = "application/json"
_MULTIPART = "multipart/form-data"


def read_body(content_type: str | None, body: bytes, most: int) -> Any:
    """A body as a table; `None` where Kong gives nil and an error that does not reach plugin servers."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind.startswith(_FORM):
        table: dict[str, Any] = {}
        fields = [part for part in body.decode("utf-8", "surrogateescape").split("&") if part]
        for name, values in parse_args("&".join(fields[:most])).items():
            items = [True if value is None else value for value in values]
            table[name] = items[0] if len(items) == 1 else items
        return table
    if kind.startswith(_JSON):
        try:
            value = json.loads(body)
        except ValueError:
            return None
        return _with_null(value) if isinstance(value, dict | list) else None
    if kind.startswith(_MULTIPART):
        head = f"content-type: {content_type}\r\n\r\n".encode("utf-8", "surrogateescape")
        message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
        if not message.is_multipart():
            return None
        parts: dict[str, Any] = {}
        for part in message.iter_parts():
            label = part.get_param("name", header="content-disposition")
            content = part.get_payload(decode=True)
            if isinstance(label, str) and isinstance(content, bytes):
                parts[label] = content.decode("utf-8", "surrogateescape")
        return parts
    return None


def _with_null(value: Any) -> Any:
    """Lua's nil can't be in a table, JSON's null can."""
    if isinstance(value, dict):
        return {name: _with_null(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_null(item) for item in value]
    return NULL if value is None else value


def write_body(args: Any, mime: str) -> tuple[bytes, str]:
    """A table as a body, and its content type.

    Raises:
        LuaError: the type is not one that Kong can write, or a value does not suit it.
    """
    kind = mime.partition(";")[0].strip()
    if kind == _JSON:
        return json.dumps(args, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogateescape"), mime
    if kind not in (_FORM, _MULTIPART):
        raise LuaError(f"unsupported content type {mime}")
    if not isinstance(args, dict):
        raise LuaError("arg keys must be strings")
    if kind == _FORM:
        return urlencode(sorted(args.items()), doseq=True).encode(), mime
    boundary = mime.partition("boundary=")[2].strip('"') or secrets.token_hex(8)
    out = []
    for name, value in sorted(args.items()):
        if not isinstance(value, str | int | float):
            raise LuaError(f"invalid value {name!r}: got {type(value).__name__}, expected string, number or boolean")
        out.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n')
    return ("".join(out) + f"--{boundary}--\r\n").encode(), f"{_MULTIPART}; boundary={boundary}"
