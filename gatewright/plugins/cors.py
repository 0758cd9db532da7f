"""**cors**: which other sites' pages may ask, and read the answers (the Fetch standard's CORS protocol)."""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec

from gatewright import Plugin, Request, Response
from gatewright.plugins._shared.counting import counter
from gatewright.plugins._shared.model import field

__all__ = ["Cors"]

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?:\*\.)?(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_METHOD: Final = "access-control-request-method"
_HEADERS: Final = "access-control-request-headers"


class CorsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Whose pages may ask what."""

    allow_origins: Annotated[
        tuple[str, ...],
        field(
            "Origins whose pages may: `https://app.example.com`, `https://*.example.com` (any subdomain), `null`, `*` "
            "for all.",
            min_length=1,
        ),
    ]
    allow_methods: Annotated[
        tuple[str, ...], field("Methods that they may use beside GET, HEAD and POST; `*` for any.")
    ] = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    allow_headers: Annotated[
        tuple[str, ...], field("Headers that they may send beside those which any page may; `*` for any.")
    ] = ("content-type", "authorization")
    expose_headers: Annotated[
        tuple[str, ...], field("Headers of answers that they may read beside those which any page may.")
    ] = ()
    allow_credentials: Annotated[
        bool,
        field("They may send cookies and passwords. Not with `*` or `null`: then every site could act for your users."),
    ] = False
    max_age: Annotated[
        int, field("How long a browser may remember what a preflight said.", unit="seconds", ge=0, le=86400)
    ] = 600
    refuse: Annotated[
        bool,
        field("Answer requests of other origins with 403, rather than let them pass without a header that helps them."),
    ] = False

    def __post_init__(self) -> None:
        for origin in self.allow_origins:
            if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"an origin is a scheme, a host and perhaps a port, in lower case, not {origin!r}")
        for names in (self.allow_methods, self.allow_headers, self.expose_headers):
            for name in names:
                if not _TOKEN.fullmatch(name):
                    raise ValueError(f"not a name: {name!r}")
        if self.allow_credentials and not {"*", "null"}.isdisjoint(self.allow_origins):
            raise ValueError(
                "allow_credentials needs origins by name: with `*`, or with `null`, which any site's page is in a "
                "sandboxed frame, every site could act for your users"
            )


class Cors(Plugin[CorsConfig]):
    """Lets pages of other sites ask, and read the answers."""

    name = "cors"
    version = "1.0.0"
    priority = 2000

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        own = self.config
        self._all = "*" in own.allow_origins
        self._origins = {origin for origin in own.allow_origins if "*" not in origin}
        self._suffixes = [
            (scheme + "://", "." + rest)
            for scheme, _, rest in (origin.partition("://*.") for origin in own.allow_origins)
            if rest
        ]
        self._any_method, self._any_header = "*" in own.allow_methods, "*" in own.allow_headers
        self._methods = {*own.allow_methods, "GET", "HEAD", "POST"}
        self._decisions = counter("cors_decisions", "Requests of other origins, by decision.", ["decision"])

    async def on_request(self, request: Request) -> Response | None:
        """Answer a preflight, or say who may read the answer."""
        origin = request.headers.get("origin")
        if origin is None:
            if not self._all:
                request.response_headers.add("vary", "Origin")
            return None
        may = self._may(origin)
        if request.method == "OPTIONS" and _METHOD in request.headers:
            return self._preflight(request, origin, may)
        self._decisions.add("allowed" if may else "refused")
        if not may and self.config.refuse:
            return Response(403, self._vary(), "This origin is not allowed here.\n")
        for name, value in [*(self._grant(origin) if may else ()), *self._vary()]:
            request.response_headers.add(name, value)
        if may and self.config.expose_headers:
            request.response_headers["access-control-expose-headers"] = ", ".join(self.config.expose_headers)
        return None

    def _may(self, origin: str) -> bool:
        if self._all or origin in self._origins:
            return True
        return any(
            origin.startswith(scheme) and origin.endswith(suffix) and _ORIGIN.fullmatch(origin) is not None
            for scheme, suffix in self._suffixes
        )

    def _grant(self, origin: str) -> list[tuple[str, str]]:
        headers = [("access-control-allow-origin", "*" if self._all else origin)]
        if self.config.allow_credentials:
            headers.append(("access-control-allow-credentials", "true"))
        return headers

    def _vary(self) -> list[tuple[str, str]]:
        return [] if self._all else [("vary", "Origin")]

    def _preflight(self, request: Request, origin: str, may: bool) -> Response:
        method = request.headers[_METHOD]
        asked = [name.strip() for name in ",".join(request.headers.get_all(_HEADERS)).split(",") if name.strip()]
        fits = (
            may
            and _TOKEN.fullmatch(method) is not None
            and all(_TOKEN.fullmatch(name) for name in asked)
            and (self._any_method or method in self._methods)
            and (self._any_header or {name.lower() for name in asked} <= {n.lower() for n in self.config.allow_headers})
        )
        self._decisions.add("preflight_allowed" if fits else "preflight_refused")
        vary = ("vary", f"Origin, {_METHOD}, {_HEADERS}")
        if not fits:
            return Response(403, [vary], "This origin, method or header is not allowed here.\n")
        headers = [
            *self._grant(origin),
            ("access-control-allow-methods", method if self._any_method else ", ".join(sorted(self._methods))),
            ("access-control-max-age", str(self.config.max_age)),
            vary,
        ]
        names = asked if self._any_header else self.config.allow_headers
        if names:
            headers.append(("access-control-allow-headers", ", ".join(names)))
        return Response(204, headers)
