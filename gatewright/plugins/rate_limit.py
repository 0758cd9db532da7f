"""**rate-limit**: how many requests may come in how much time, of whom."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from math import inf
from typing import Annotated, Final

import msgspec

from gatewright import Headers, Plugin, Request, Response
from gatewright.plugins._shared.addresses import ClientAddress
from gatewright.plugins._shared.counting import counter
from gatewright.plugins._shared.keys import KEY_HELP, KeyTemplate
from gatewright.plugins._shared.limiting import Algorithm, Limit, State, Store, StoreFailedError, Verdict, shared_memory
from gatewright.plugins._shared.model import field
from gatewright.plugins._shared.redis_server import RedisConfig, shared_server

__all__ = ["RateLimit"]

_SECOND: Final = 1_000_000


class RateLimitRule(msgspec.Struct, frozen=True, kw_only=True):
    """So many requests in so much time."""

    requests: Annotated[int, field("How many may come in `period`.", unit="requests", ge=1)]
    period: Annotated[float, field("The time that they are counted in.", unit="seconds", gt=0)] = 1.0
    algorithm: Annotated[
        Algorithm,
        field(
            "How they are counted. `gcra`: a bucket that refills evenly. `fixed-window`: windows by the clock. "
            "`sliding-window`: the same, with a share of the window before. `sliding-log`: exact in any `period`, and "
            "as large as `requests`."
        ),
    ] = "gcra"
    burst: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        field("With `gcra`: how many may come at once. Without it as many as `requests`.", unit="requests"),
    ] = None
    name: Annotated[
        str, field("What the headers call this limit; made of the numbers if empty.", pattern=r"^[\x20-\x7e]*$")
    ] = ""

    def __post_init__(self) -> None:
        if self.burst is not None and self.algorithm != "gcra":
            raise ValueError("burst is for gcra: the other algorithms let all of a period's requests come at once")
        self.limit()

    def limit(self) -> Limit:
        """For the store."""
        return Limit.of(self.requests, self.period, self.algorithm, self.burst)

    @property
    def label(self) -> str:
        """For headers."""
        return self.name or f"{self.requests}-in-{self.period:g}s"


class RateLimitConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Limits, and whom they are for."""

    limits: Annotated[
        tuple[RateLimitRule, ...],
        field("The limits; a request passes if all let it, and then counts for all.", min_length=1),
    ]
    key: Annotated[str, field(f"For whom requests are counted. Parts are {KEY_HELP}.")] = "{client_ip}"
    namespace: Annotated[
        str,
        field("Routes that say the same here count together, in this store. Without it each route counts for itself."),
    ] = ""
    cost: Annotated[int, field("How much a request counts.", unit="requests", ge=1)] = 1
    redis: Annotated[
        RedisConfig | None,
        field("Where to count for all workers and runners together. Without it each worker counts for itself."),
    ] = None
    fail_open: Annotated[
        bool, field("When Redis can't be asked: `true` lets requests pass, `false` answers with 503.")
    ] = False
    memory_keys: Annotated[
        int, field("Without Redis: how many counts are kept; those not used for longest go.", unit="counts", ge=1)
    ] = 100_000
    status: Annotated[int, field("Status of a refusal.", ge=400, le=599)] = 429
    body: Annotated[str, field("Body of a refusal.")] = "Too many requests.\n"
    content_type: Annotated[str, field("Content type of that body.")] = "text/plain; charset=utf-8"
    standard_headers: Annotated[
        bool, field("Tell clients of the limits with `RateLimit` and `RateLimit-Policy` (IETF draft 11).")
    ] = True
    legacy_headers: Annotated[
        bool, field("Tell them with `X-RateLimit-Limit`, `-Remaining` and `-Reset`, too, of the limit nearest its end.")
    ] = True
    trusted_proxies: Annotated[
        tuple[str, ...],
        field("Networks of proxies whose `forwarded_header` is believed. Empty: the address that the gateway tells."),
    ] = ()
    forwarded_header: Annotated[str, field("The header to which proxies append whom they speak for.", min_length=1)] = (
        "x-forwarded-for"
    )
    ipv6_prefix: Annotated[
        int,
        field("How much of an IPv6 address tells clients apart: one has a whole network.", unit="bits", ge=1, le=128),
    ] = 64

    def __post_init__(self) -> None:
        for rule in self.limits:
            most = min(rule.requests, rule.burst or rule.requests)
            if self.cost > most:
                raise ValueError(f"a request that costs {self.cost} would never pass a limit of {most} at once")
        labels = [rule.limit().label for rule in self.limits]
        if len(set(labels)) < len(labels):
            raise ValueError("two limits are the same")
        self.template()

    def template(self) -> KeyTemplate:
        """The key's."""
        client = ClientAddress(self.trusted_proxies, self.forwarded_header)
        return KeyTemplate(self.key, client=client, ipv6_prefix=self.ipv6_prefix)


class RateLimit(Plugin[RateLimitConfig]):
    """Refuses requests that are too many."""

    name = "rate-limit"
    version = "1.0.0"
    priority = 910

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        own = self.config
        self._limits = tuple(rule.limit() for rule in own.limits)
        self._key = own.template()
        self._labels = [f'"{_quoted(rule.label)}"' for rule in own.limits]
        self._policy = ", ".join(
            f"{label};q={rule.requests};w={max(round(rule.period), 1)}"
            for label, rule in zip(self._labels, own.limits, strict=True)
        )
        self._decisions = counter("rate_limit_decisions", "Requests looked at, by decision.", ["route", "decision"])
        self._store: Store | None = None
        self._release: Callable[[], Awaitable[None]] | None = None

    async def setup(self) -> None:
        """Get at the store."""
        if self.config.redis is None:
            self._store = shared_memory(self.config.memory_keys)
            self.log.warning(
                "requests are counted in this process alone: each further worker or runner lets as many pass again; "
                "name a Redis (`redis`) to count for all"
            )
            return
        from gatewright.plugins._shared.limiting.redis_store import RedisStore

        server, self._release = await shared_server(self.config.redis, plugin=self.name)
        self._store = server.kept(RedisStore)

    async def teardown(self) -> None:
        """Let go of the store."""
        if self._release is not None:
            await self._release()

    async def on_request(self, request: Request) -> Response | None:
        """Count a request, or refuse it."""
        own, store = self.config, self._store
        assert store is not None  # noqa: S101 - set up
        route = request.route
        key = f"rate-limit:{own.namespace or route}:{await self._key.render(request)}"
        try:
            verdict = await store.decide(key, self._limits, own.cost)
        except StoreFailedError as error:
            self._decisions.add(route, "passed_unknown" if own.fail_open else "refused_unknown")
            if own.fail_open:
                return None
            self.log.debug("refused: %s", error)
            return Response(503, {"retry-after": "1"}, "The limits can't be looked up just now.\n")
        if verdict.allowed:
            self._decisions.add(route, "passed")
            self._tell(request, verdict)
            return None
        self._decisions.add(route, "refused")
        retry = max(state.retry for state in verdict.states if not state.allowed)
        headers = [("content-type", own.content_type), ("retry-after", str(_seconds(retry))), *self._headers(verdict)]
        return Response(own.status, headers, own.body)

    def _tell(self, request: Request, verdict: Verdict) -> None:
        """Tell the client of the limits, beside what another configuration of this plugin has told, for another key."""
        told = request.response_headers
        headers = self._headers(verdict)
        if told:
            headers = self._beside(told, dict(headers))
        for name, value in headers:
            told[name] = value

    def _beside(self, told: Headers, headers: dict[str, str]) -> list[tuple[str, str]]:
        for name in ("ratelimit-policy", "ratelimit"):  # lists
            if name in headers and name in told:
                headers[name] = f"{told[name]}, {headers[name]}"
        if self.config.legacy_headers and _share_left(told) <= _share_left(headers):  # that one is nearer its end
            return [(name, value) for name, value in headers.items() if not name.startswith("x-")]
        return list(headers.items())

    def _headers(self, verdict: Verdict) -> list[tuple[str, str]]:
        own, states = self.config, verdict.states
        until = [_until(state) for state in states]
        headers = []
        if own.standard_headers:
            now = [
                f"{label};r={state.remaining};t={seconds}"
                for label, state, seconds in zip(self._labels, states, until, strict=True)
            ]
            headers = [("ratelimit-policy", self._policy), ("ratelimit", ", ".join(now))]
        if own.legacy_headers:
            place = 0
            if len(states) > 1:
                place = min(range(len(states)), key=lambda each: states[each].remaining / own.limits[each].requests)
            headers += [
                ("x-ratelimit-limit", str(own.limits[place].requests)),
                ("x-ratelimit-remaining", str(states[place].remaining)),
                ("x-ratelimit-reset", str(until[place])),
            ]
        return headers


def _share_left(told: Mapping[str, str] | Headers) -> float:
    """How much of a limit is left as clients were told; endless, where they were told of none."""
    left, limit = told.get("x-ratelimit-remaining", ""), told.get("x-ratelimit-limit", "")
    if not (left.isascii() and left.isdecimal() and limit.isascii() and limit.isdecimal() and int(limit)):
        return inf
    return int(left) / int(limit)


def _until(state: State) -> int:
    """Seconds until all may come again, or, of a limit that refuses, until the request may."""
    return _seconds(state.reset if state.allowed else state.retry)


def _seconds(micros: int) -> int:
    return -(-micros // _SECOND)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
