"""**cache**: answers are kept, and given again without asking the upstream (RFC 9111)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import blake2b
from secrets import token_hex
from time import time
from typing import Annotated, Any, Final, Literal

import msgspec

from gatewright import NotAvailableError, Plugin, Request, Response
from gatewright.plugins._shared.counting import counter
from gatewright.plugins._shared.keys import KEY_HELP, KeyTemplate
from gatewright.plugins._shared.model import field
from gatewright.plugins._shared.redis_server import RedisConfig, shared_server
from gatewright.plugins._shared.targets import sent_target
from gatewright.plugins.cache.addresses import arguments_of, claims_of, is_authorized
from gatewright.plugins.cache.entries import Entry, RedisEntries, Shelf, Variants, shared_entries
from gatewright.plugins.cache.rules import (
    SAFE,
    date_of,
    directives,
    has_body,
    is_fresh_enough,
    lifetime,
    matches,
    may_be_stale,
    may_store,
    seconds_of,
    whole_number,
)

__all__ = ["Cache"]

_CTX: Final = "gatewright.cache"
_HOP_BY_HOP: Final = frozenset(
    ("connection", "content-length", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade")
)  # fmt: skip
_OF_304: Final = ("cache-control", "content-location", "date", "etag", "expires", "vary", "last-modified")
_MOST_ARGUMENTS: Final = 100
_FAILURES: Final = frozenset((500, 502, 503, 504))


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept, where, and for how long."""

    default_ttl: Annotated[
        float,
        field(
            "How long an answer is kept whose upstream does not say. 0: it is not.", unit="seconds", ge=0, le=31_536_000
        ),
    ] = 0.0
    max_ttl: Annotated[
        float, field("The longest that any answer is kept, whatever it says.", unit="seconds", gt=0, le=31_536_000)
    ] = 86_400.0
    stale_if_error: Annotated[
        float,
        field(
            "How long after that it may still be given while the upstream answers 500, 502, 503 or 504. An answer's "
            "own `stale-if-error` counts, too.",
            unit="seconds", ge=0,
        ),
    ] = 0.0  # fmt: skip
    max_body: Annotated[int, field("Longer bodies are not kept.", unit="bytes", ge=1)] = 1 << 20
    vary_by: Annotated[
        str, field(f"What answers depend on beside host, path, query and `Vary`: a template of {KEY_HELP}.")
    ] = ""
    ignore_query: Annotated[tuple[str, ...], field("Arguments that make no difference, such as `utm_source`.")] = ()
    client_control: Annotated[
        Literal["heed", "ignore"],
        field("Whether clients' `Cache-Control` counts. With `ignore` none reaches the upstream by saying `no-cache`."),
    ] = "heed"
    redis: Annotated[
        RedisConfig | None,
        field("Where to keep answers for all workers and runners. Without it each worker keeps its own."),
    ] = None
    memory: Annotated[
        int, field("Without Redis: how much each worker keeps at most, over all routes.", unit="bytes", ge=1 << 16)
    ] = 64 << 20
    status_header: Annotated[bool, field("Say in `Cache-Status` (RFC 9211) where an answer came from.")] = True

    def __post_init__(self) -> None:
        KeyTemplate(self.vary_by)


class Cache(Plugin[CacheConfig]):
    """Keeps answers, and gives them again."""

    name = "cache"
    version = "1.0.0"
    priority = 100

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        self._vary_by = KeyTemplate(self.config.vary_by)
        self._ignored = frozenset(self.config.ignore_query)
        self._lookups = counter("cache_lookups", "Requests looked up, by result.", ["result"])
        self._stored = counter("cache_stored", "Answers looked at, by what became of them.", ["result"])
        self._shelf: Shelf | None = None
        self._release: Callable[[], Awaitable[None]] | None = None

    async def setup(self) -> None:
        """Get at what is kept."""
        if self.config.redis is None:
            self._shelf = shared_entries(self.config.memory)
            return
        server, self._release = await shared_server(self.config.redis, plugin=self.name)
        self._shelf = server.kept(RedisEntries)

    async def teardown(self) -> None:
        """Let go of it."""
        if self._release is not None:
            await self._release()

    # --- the request

    async def on_request(self, request: Request) -> Response | None:
        """Answer from what is kept, or note what the answer will be good for."""
        method = request.method
        headers = request.headers
        key = ""
        if method not in SAFE or (method == "GET" and "range" not in headers and not has_body(headers.get)):
            key = await self._key(request)
        if method not in SAFE:
            request.ctx[_CTX] = {"drop": key}
            return None
        if not key:
            self._lookups.add("bypassed")
            return None
        said = directives(headers.get_all("cache-control")) if self.config.client_control == "heed" else {}
        if not said and self.config.client_control == "heed" and headers.get("pragma", "").strip() == "no-cache":
            said = {"no-cache": ""}
        entry = await self._find(key, request)
        now = time()
        if entry is not None and is_fresh_enough(
            said, now - entry.made, entry.fresh, may_be_stale="max-stale" not in said or may_be_stale(entry.said())
        ):
            self._lookups.add("hit")
            return self._answer(entry, now, request)
        self._lookups.add("miss" if entry is None else "stale")
        if "only-if-cached" in said:
            return Response(504, {"cache-status": "gatewright; fwd=miss"}, "This is not in the cache.\n")
        conditional = "if-none-match" in headers or "if-modified-since" in headers
        # What another worker keeps in its memory is not there when the answer comes, so it can't be renewed.
        renew = entry is not None and not conditional and self.config.redis is not None
        request.ctx[_CTX] = {
            "key": key, "store": "no-store" not in said, "own": conditional, "renew": renew,
            "auth": is_authorized(headers, request.ctx),
        }  # fmt: skip
        if entry is not None and renew:
            for name, known in (("if-none-match", "etag"), ("if-modified-since", "last-modified")):
                value = entry.header(known)
                if value is not None:
                    headers[name] = value
        return None

    async def _key(self, request: Request) -> str:
        """Under this an answer is kept; nothing, where not all can be seen that it may depend on."""
        # As it was sent: the path that plugins see is decoded, and `/a%2Fb` may be another thing upstream than `/a/b`.
        path, _, sent = (await sent_target(request)).partition("?")
        if sent.count("&") >= _MOST_ARGUMENTS:  # gateways don't hand over more, but send them on
            return ""
        headers = request.headers
        whole = [
            request.route, await request.var("scheme"), headers.get("host", "").lower(), request.path, path,
            arguments_of(sent, request.query.multi_items(), self._ignored), claims_of(headers),
        ]  # fmt: skip
        if self._vary_by.text:
            whole.append(await self._vary_by.render(request))
        return f"cache:{_digest(whole)}"

    async def _find(self, key: str, request: Request) -> Entry | None:
        shelf = self._shelf
        assert shelf is not None  # noqa: S101 - set up
        kept = await shelf.get(key)
        if isinstance(kept, Variants):
            kept = await shelf.get(_variant(key, kept, request))
        return kept if isinstance(kept, Entry) else None

    def _answer(self, entry: Entry, now: float, request: Request | None) -> Response:
        age = max(int(now - entry.made), 0)
        extra = [("age", str(age))]
        if self.config.status_header:
            extra.append(("cache-status", f"gatewright; hit; ttl={int(entry.fresh - (now - entry.made))}"))
        if request is not None and entry.status == 200 and matches(request.headers.get, entry.header):
            return Response(304, [*((n, v) for n, v in entry.headers if n in _OF_304), *extra])
        return Response(entry.status, [*entry.headers, *extra], entry.body)

    # --- the answer

    async def on_response(self, request: Request, response: Response) -> Response | None:
        """Keep the upstream's answer, or give what is kept where that fails."""
        noted: Any = request.ctx.get(_CTX)
        shelf = self._shelf
        assert shelf is not None  # noqa: S101 - set up
        if not isinstance(noted, dict):
            return None
        if "drop" in noted:
            if noted["drop"] and 200 <= response.status < 400:
                await shelf.drop(noted["drop"])
            return None
        key, now = noted["key"], time()
        if not noted["own"] and (response.status == 304 or response.status in _FAILURES):
            entry = await self._find(key, request)
            if response.status == 304 and noted["renew"]:
                if entry is None:  # gone meanwhile, and the client can't do anything with a 304
                    return Response(503, {"retry-after": "0"}, "Ask again.\n")
                return await self._renewed(key, entry, request, response, now)
            if entry is not None and now - entry.made < entry.fresh + entry.stale_if_error:
                self._stored.add("stale_given")
                return self._answer(entry, now, None)
        stored = noted["store"] and await self._store(key, request, response, now, authorized=noted["auth"])
        self._stored.add("stored" if stored else "not_stored")
        if self.config.status_header:
            response.headers.add("cache-status", f"gatewright; fwd=miss{'; stored' if stored else ''}")
        return None

    async def _renewed(self, key: str, old: Entry, request: Request, response: Response, now: float) -> Response:
        """The upstream says that what is kept is still right (4.3.4)."""
        changed = {name.lower(): value for name, value in response.headers.multi_items()}
        headers = [(name, changed.pop(name, value)) for name, value in old.headers]
        headers += [(name, value) for name, value in changed.items() if name in _OF_304]
        entry = self._entry(old.status, headers, old.body, now)
        await self._put(key, entry, request)
        self._stored.add("renewed")
        return self._answer(entry, now, None)

    async def _store(self, key: str, request: Request, response: Response, now: float, *, authorized: bool) -> bool:
        headers = [
            (name.lower(), value) for name, value in response.headers.multi_items() if name.lower() not in _HOP_BY_HOP
        ]
        said = directives(value for name, value in headers if name == "cache-control")
        vary = _vary(headers)
        sets_cookie = any(name == "set-cookie" for name, _ in headers)
        if not may_store(response.status, said, authorized=authorized, vary=vary, sets_cookie=sets_cookie):
            return False
        entry = self._entry(response.status, headers, b"", now)
        length = response.headers.get("content-length", "")
        if entry.fresh <= 0 or (whole_number(length) or 0) > self.config.max_body:
            return False
        try:
            body = await response.body()
        except NotAvailableError:
            return False
        if len(body) > self.config.max_body:
            return False
        return await self._put(key, msgspec.structs.replace(entry, body=body), request)

    def _entry(self, status: int, headers: list[tuple[str, str]], body: bytes, now: float) -> Entry:
        own = self.config

        def header(name: str) -> str | None:
            return next((value for known, value in headers if known == name), None)

        said = directives(value for name, value in headers if name == "cache-control")
        begun = date_of(header("date"))
        made = min(now - (whole_number(header("age") or "") or 0), begun if begun is not None else now)
        fresh = min(lifetime(status, said, header, now, own.default_ttl), own.max_ttl)
        stale = max(own.stale_if_error, seconds_of(said, "stale-if-error") or 0)
        if not may_be_stale(said):
            stale = 0
        return Entry(status, [pair for pair in headers if pair[0] != "age"], body, made, fresh, stale)

    async def _put(self, key: str, entry: Entry, request: Request) -> bool:
        shelf, vary = self._shelf, _vary(entry.headers)
        assert shelf is not None  # noqa: S101 - set up
        # What has a validator is kept for as long again: the upstream may say that it is still right.
        more = entry.fresh if entry.header("etag") or entry.header("last-modified") else 0.0
        seconds = entry.fresh + max(entry.stale_if_error, more) - (time() - entry.made)
        if seconds <= 0:
            return False
        if vary:
            variants = await shelf.get(key)
            if not isinstance(variants, Variants) or variants.names != vary:
                variants = Variants(vary, token_hex(8))
            if not await shelf.put(key, variants, max(seconds, self.config.max_ttl)):
                return False
            key = _variant(key, variants, request)
        return await shelf.put(key, entry, seconds)


def _vary(headers: list[tuple[str, str]]) -> list[str]:
    names = {part.strip().lower() for name, value in headers if name == "vary" for part in value.split(",")}
    return sorted(names - {""})


def _variant(key: str, variants: Variants, request: Request) -> str:
    # All of a header's values, together: in the response phase APISIX tells them so.
    headers = [("; " if name == "cookie" else ", ").join(request.headers.get_all(name)) for name in variants.names]
    there = [name in request.headers for name in variants.names]
    return f"{key}:{variants.mark}:{_digest([headers, there])}"


def _digest(value: Any) -> str:
    return blake2b(repr(value).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
