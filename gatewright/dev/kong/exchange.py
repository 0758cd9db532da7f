"""One request on its way through Kong: what the client sent, what goes to the service, what comes back. No I/O."""

from __future__ import annotations

import ipaddress
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Final

from gatewright.dev.kong.declarative import Entity
from gatewright.dev.kong.router import Match
from gatewright.dev.lean.operations import LeanState
from gatewright.dev.messages import ClientRequest, Headers
from gatewright.dev.nginx import normalise as nginx_uri
from gatewright.gateways.kong.log_phase import normalise

__all__ = ["BufferedAnswer", "Exchange", "HeaderList"]

SERVER_NAME: Final = "kong"
"""Of Kong's proxy listener in nginx: what `$host` is without a header."""


class HeaderList:
    """Headers in order; looked up without regard to case, and to `-` and `_` as nginx's variables are."""

    def __init__(self, entries: Headers) -> None:
        """Take entries, in order."""
        self.entries = list(entries)

    def get(self, name: str) -> str | None:
        """The first value."""
        return next(iter(self.get_all(name)), None)

    def get_all(self, name: str) -> list[str]:
        """All values."""
        wanted = _folded(name)
        return [value for present, value in self.entries if _folded(present) == wanted]

    def clear(self, name: str) -> None:
        """Remove a header; one that is spelt with `_` for `-` stays."""
        wanted = name.lower()
        self.entries = [entry for entry in self.entries if entry[0].lower() != wanted]

    def set(self, name: str, values: list[str]) -> None:
        """Put values in a header's place."""
        wanted = name.lower()
        at = next((n for n, (present, _) in enumerate(self.entries) if present.lower() == wanted), len(self.entries))
        before = self.entries[:at]
        after = [entry for entry in self.entries[at:] if entry[0].lower() != wanted]
        self.entries = [*before, *((name, value) for value in values), *after]

    def values_of(self, name: str) -> list[str]:
        """All values of exactly this name, in whatever case."""
        wanted = name.lower()
        return [value for present, value in self.entries if present.lower() == wanted]

    def table(self, most: int) -> dict[str, Any]:
        """As `ngx.req.get_headers` gives them: names in lower case, text, or a list where there are several."""
        table: dict[str, Any] = {}
        for name, value in self.entries[:most]:
            lower = name.lower()
            known = table.get(lower)
            table[lower] = value if known is None else [*known, value] if isinstance(known, list) else [known, value]
        return table


def _folded(name: str) -> str:
    return name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class BufferedAnswer:
    """The service's answer, kept for the response phase."""

    status: int
    headers: HeaderList
    body: bytes


@dataclass(slots=True)
class Exchange:
    """A request and all that plugins made of it.

    Attributes:
        request: what the client sent.
        headers: the request's headers, as they go to the service.
        query: the query as it goes to the service, without `?`.
        response_headers: what plugins asked for, and later the service's.
        shared: `kong.ctx.shared`.
        ctx: `ngx.ctx`.
        phase: the phase that runs now.
        later: the request is over, and the log phase runs in a timer.
        sent_host: the host that the service was asked as.
        forwarded_host: `X-Forwarded-Host`, as it was before the access phase.
        target: host and port that a plugin chose (`kong.service.set_target`).
        lean: what the lean path's plugins keep.
        body_sent: bytes of the answer's body.
    """

    request: ClientRequest
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    began: float = field(default_factory=time.time)
    phase: str = "rewrite"
    plugin_id: str = ""
    plugin_name: str = ""
    headers: HeaderList = field(init=False)
    method: str = field(init=False)
    query: str = field(init=False)
    body: bytes = field(init=False)
    body_changed: bool = False
    upstream_scheme: str = "http"
    upstream_path: str = ""
    upstream_host: str = ""
    sent_host: str = ""
    forwarded_host: str = ""
    target: tuple[str, int] | None = None
    upstream_name: str = ""
    buffered: bool = False
    match: Match | None = None
    consumer: Entity | None = None
    credential: Entity | None = None
    shared: dict[str, Any] = field(default_factory=dict)
    ctx: dict[str, Any] = field(default_factory=dict)
    log_values: dict[str, Any] = field(default_factory=dict)
    balancer: dict[str, int] = field(default_factory=dict)
    status: int = 0
    response_headers: HeaderList = field(default_factory=lambda: HeaderList([]))
    service_answer: BufferedAnswer | None = None
    source: str = "error"
    tls_verify: bool | None = None
    later: bool = False
    waited_ms: int = 0
    lean: LeanState = field(default_factory=LeanState)
    body_sent: int = 0

    def __post_init__(self) -> None:
        self.headers = HeaderList(self.request.headers)
        self.method = self.request.method
        self.body = self.request.body
        self.query = self.request.target.partition("?")[2]

    @property
    def host(self) -> str:
        """Nginx's `$host`: without port, in lower case."""
        value = self.headers.get("host") or SERVER_NAME
        name = value if value.startswith("[") and value.endswith("]") else value.rpartition(":")[0] or value
        return name.lower()

    @property
    def raw_path(self) -> str:
        """The path as the client sent it."""
        return self.request.target.partition("?")[0]

    @property
    def path(self) -> str:
        """The path as Kong has it: reserved characters stay escaped."""
        return normalise(self.raw_path)

    @property
    def uri(self) -> str:
        """Nginx's `$uri`, decoded."""
        return nginx_uri(self.raw_path)

    def variable(self, name: str) -> str | None:
        """An nginx variable, as far as they are known here."""
        request = self.request
        match name:
            case "remote_addr" | "realip_remote_addr":
                return request.client_ip
            case "request_uri":
                return request.target
            case "request_method":
                return self.method
            case "uri" | "document_uri":
                return self.uri
            case "args" | "query_string":
                return self.query or None
            case "is_args":
                return "?" if self.query else ""
            case "host":
                return self.host
            case "server_name":
                return SERVER_NAME
            case "binary_remote_addr":
                return ipaddress.ip_address(request.client_ip).packed.decode("utf-8", "surrogateescape")
            case "kong_proxy_mode":
                return "http"
            case "pipe":
                return "."
            case "https" | "request_completion":
                return ""
            case "scheme":
                return "http"
            case "server_port":
                return str(request.server_port)
            case "server_addr":
                return request.server_addr
            case "server_protocol":
                return f"HTTP/{request.version}"
            case "request":
                return f"{request.method} {request.target} HTTP/{request.version}"
            case "request_body":  # read when Kong's own access phase begins
                return None if self.phase == "rewrite" else self.body.decode("utf-8", "surrogateescape") or None
            case "content_type" | "content_length":
                return self.headers.get(name)
            case "request_length":
                return str(request.head_size + len(request.body))
            case "connection_requests":
                return str(request.number)
            case "kong_request_id" | "request_id":
                return self.id
            case "upstream_uri":
                return self.upstream_path + (f"?{self.query}" if self.phase == "response" and self.query else "")
            case "upstream_host":
                return self.upstream_host or (self.sent_host if self.phase == "response" else "")
            case "upstream_scheme":
                return "" if self.phase == "rewrite" else self.upstream_scheme
            case "status":
                return f"{self.status:03d}"
        return self._of_family(name)

    def _of_family(self, name: str) -> str | None:
        family, _, rest = name.partition("_")
        if family == "http":
            return ", ".join(self.headers.get_all(rest)) or None
        if family == "arg":
            for part in self.query.split("&"):
                key, _, value = part.partition("=")
                if key.lower() == rest.lower() and "=" in part:
                    return value
        if family == "cookie":
            for part in (self.headers.get("cookie") or "").split(";"):
                key, equals, value = part.strip().partition("=")
                if equals and key == rest:
                    return value
        if name.startswith("sent_http_"):
            return ", ".join(self.response_headers.get_all(name.removeprefix("sent_http_"))) or None
        if name.startswith("upstream_http_") and self.service_answer is not None and not self.buffered:
            return self.service_answer.headers.get(name.removeprefix("upstream_http_"))
        return None
