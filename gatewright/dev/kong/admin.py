"""Kong's Admin API on the development gateway, as far as guides use it, kept in memory.

`POST /config` takes a whole `kong.yml` (as a form's `config`, as JSON, or as it is); `/services`, `/routes`, `/plugins`
and `/consumers`, also below a service, a route or a consumer, take, show and drop single entities.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any, Final
from urllib.parse import parse_qsl

import yaml

from gatewright.dev.kong.declarative import Declared, parse_declarative
from gatewright.dev.messages import Answer, ClientRequest
from gatewright.errors import ConfigError

__all__ = ["KongAdmin"]

_KINDS: Final = ("services", "routes", "plugins", "consumers", "upstreams")
_PARENTS: Final = {"services": "service", "routes": "route", "consumers": "consumer"}


class _RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class KongAdmin:
    """What was configured through it."""

    def __init__(self, content: Mapping[str, Any], apply: Callable[[Declared], None]) -> None:
        """Begin with a configuration in the declarative format.

        Args:
            content: the configuration.
            apply: takes a new one; raises `ConfigError` if it can't.
        """
        self._content = {kind: list(content.get(kind) or []) for kind in _KINDS}
        self._apply = apply

    async def handle(self, request: ClientRequest) -> Answer:
        """Answer one request."""
        try:
            status, words = self._answer(request)
        except _RefusedError as refused:
            status, words = refused.status, {"message": str(refused)}
        body = b"" if status == 204 else json.dumps(words).encode()
        headers = [("Content-Type", "application/json; charset=utf-8"), ("Content-Length", str(len(body)))]
        return Answer(status, headers, body, framing="content-length")

    def _answer(self, request: ClientRequest) -> tuple[int, Any]:
        if any(name.lower() in ("origin", "sec-fetch-site") for name, _ in request.headers):
            raise _RefusedError(403, "pages of other sites have no business here")
        host = next((value for name, value in request.headers if name.lower() == "host"), "")
        if not re.fullmatch(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", host):
            raise _RefusedError(403, f"this Admin API is at 127.0.0.1, not at {host!r}")
        parts = [part for part in request.target.partition("?")[0].split("/") if part]
        if not parts:
            return 200, {"tagline": "Gatewright development gateway", "version": "development"}
        if parts == ["config"]:
            return self._config(request)
        parent = {}
        if len(parts) >= 3 and parts[0] in _PARENTS:
            self._find(parts[0], parts[1])
            parent, parts = {_PARENTS[parts[0]]: parts[1]}, parts[2:]
        if parts[0] not in _KINDS or len(parts) > 2:
            raise _RefusedError(404, f"Not found: the development gateway has /config, /{', /'.join(_KINDS)}")
        return self._entity(request, parts[0], parts[1] if len(parts) == 2 else "", parent)

    def _config(self, request: ClientRequest) -> tuple[int, Any]:
        if request.method == "GET":
            return 200, {"config": yaml.safe_dump(self._whole(self._content), sort_keys=False)}
        if request.method != "POST":
            raise _RefusedError(405, "Method not allowed")
        given = _fields(request)
        try:
            content = yaml.safe_load(given["config"]) if isinstance(given.get("config"), str) else given
        except yaml.YAMLError as error:
            raise _RefusedError(400, f"declarative config is invalid: {error}") from None
        if not isinstance(content, dict):
            raise _RefusedError(400, "expected a declarative configuration")
        self._take(content)
        self._content = {kind: list(content.get(kind) or []) for kind in _KINDS}
        return 201, {kind: self._content[kind] for kind in _KINDS if self._content[kind]}

    def _entity(self, request: ClientRequest, kind: str, own: str, parent: Mapping[str, str]) -> tuple[int, Any]:
        items = self._content[kind]
        if request.method == "GET":
            return (200, self._find(kind, own)) if own else (200, {"data": items, "next": None})
        if request.method == "DELETE":
            found = self._find(kind, own)
            self._put(kind, [item for item in items if item is not found])
            return 204, None
        fields = {**_fields(request), **parent}
        if request.method == "POST" and not own:
            item = {"id": str(uuid.uuid4()), **fields}
            self._put(kind, [*items, item])
            return 201, item
        if request.method in ("PUT", "PATCH") and own:
            before = next((item for item in items if _is(item, own)), None)
            if before is None and request.method == "PATCH":
                raise _RefusedError(404, "Not found")
            named = {"id": own} if _is_uuid(own) else {"name" if kind != "consumers" else "username": own}
            base = before if before is not None and request.method == "PATCH" else {"id": str(uuid.uuid4()), **named}
            item = _merged(base, {**fields, "id": (before or base)["id"]})
            self._put(kind, [*(each for each in items if each is not before), item])
            return 200, item
        raise _RefusedError(405, "Method not allowed")

    def _find(self, kind: str, own: str) -> dict[str, Any]:
        for item in self._content[kind]:
            if _is(item, own):
                found: dict[str, Any] = item
                return found
        raise _RefusedError(404, "Not found")

    def _put(self, kind: str, items: list[Any]) -> None:
        content = {**self._content, kind: items}
        self._take(self._whole(content))
        self._content = content

    @staticmethod
    def _whole(content: Mapping[str, Any]) -> dict[str, Any]:
        return {"_format_version": "3.0", **{kind: items for kind, items in content.items() if items}}

    def _take(self, content: Mapping[str, Any]) -> None:
        try:
            self._apply(parse_declarative(content))
        except ConfigError as error:
            raise _RefusedError(400, f"schema violation ({error})") from None


def _is(item: Any, own: str) -> bool:
    return isinstance(item, dict) and own in (item.get("id"), item.get("name"), item.get("username"))


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return {**old, **{name: _merged(old.get(name), value) for name, value in new.items()}}


def _fields(request: ClientRequest) -> dict[str, Any]:
    """A body's fields: JSON, a form (`config.message=hi`, `paths[]=/x`), a multipart form, or YAML as it is."""
    kind = next((value for name, value in request.headers if name.lower() == "content-type"), "")
    media = kind.partition(";")[0].strip().lower()
    text = request.body.decode("utf-8", "replace")
    if media == "multipart/form-data":
        message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: %s\r\n\r\n%s" % (kind.encode(), request.body))
        parts = [
            (str(part.get_param("name", header="content-disposition")), part.get_payload(decode=True) or b"")
            for part in message.iter_parts()
        ]
        return _nested([(name, bytes(data).decode("utf-8", "replace")) for name, data in parts])
    if media == "application/x-www-form-urlencoded":
        return _nested(parse_qsl(text, keep_blank_values=True))
    try:
        content = yaml.safe_load(text) if text.strip() else {}  # JSON is YAML
    except yaml.YAMLError as error:
        raise _RefusedError(400, f"Cannot parse the body: {error}") from None
    if not isinstance(content, dict):
        raise _RefusedError(400, "Cannot parse the body: expected an object")
    return content


def _nested(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Form fields as Kong reads them: dots go down, `[]` and repeats make lists, numbers and booleans are such."""
    out: dict[str, Any] = {}
    for name, text in pairs:
        *way, last = name.split(".")
        place = out
        for step in way:
            place = place.setdefault(step, {})
        value = _value(text) if way else text
        is_list = bool(re.search(r"\[\d*\]$", last)) or last in ("paths", "methods", "hosts", "protocols", "tags")
        key = re.sub(r"\[\d*\]$", "", last)
        if is_list:
            values = text.split(",") if last == key else [text]
            place[key] = [*place.get(key, []), *values]
        else:
            place[key] = value
    return out


def _value(text: str) -> Any:
    """A configuration's value."""
    if text in ("true", "false"):
        return text == "true"
    return int(text) if re.fullmatch(r"-?\d+", text) else float(text) if re.fullmatch(r"-?\d+\.\d+", text) else text
