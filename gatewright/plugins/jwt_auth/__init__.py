"""**jwt-auth**: requests with a token that is believed go on, and the upstream is told what the token says.

A token is judged once (`_verifier`: form, key, signature, claims); what came of it is kept until the token ends, a key
is withdrawn or `cache_ttl` is over. Opaque tokens are judged by the provider (`_introspection`).

It is kept under the text that the token came in. To look that up gives nothing away: Python compares two texts only if
their hashes, which are keyed, are the same, so there is nothing to be learnt from the time about a token that one
doesn't have. That it stays in memory adds little to what is there anyway, since each request brings it along again;
only tokens that are believed stay, no longer than they are good, and none is written anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic, time
from typing import Any, Final

from gatewright import Headers, Plugin, Request, Response
from gatewright.plugins._shared.counting import counter
from gatewright.plugins._shared.credentials import AmbiguousCredentialsError, Place
from gatewright.plugins._shared.extras import extra
from gatewright.plugins._shared.identity import IdentityHeaders, header_text, leave_consumer

with extra("jwt", plugin="jwt-auth"):
    from gatewright.plugins.jwt_auth._claims import InsufficientScopeError, look_up
    from gatewright.plugins.jwt_auth._config import JwtAuthConfig
    from gatewright.plugins.jwt_auth._introspection import Endpoint, Introspector
    from gatewright.plugins.jwt_auth._key_source import (
        ConfiguredKeys,
        FetchedKeys,
        KeySource,
        KeysUnavailableError,
        keys_of_document,
    )
    from gatewright.plugins.jwt_auth._keys import keys_from_pem, secret_key
    from gatewright.plugins.jwt_auth._provider import Provider, ProviderError
    from gatewright.plugins.jwt_auth._token import InvalidTokenError
    from gatewright.plugins.jwt_auth._verifier import Verifier

__all__ = ["JwtAuth"]

_PARTS_OF_JWT: Final = 3
_MOST_BESIDE: Final = 64  # letters of a header's value beside the token, if it is to be remembered
_LOOK_SECONDS: Final = 1.0  # how often those who have a known token see to the age of the keys


@dataclass(frozen=True, slots=True)
class _Accepted:
    """What is kept of a token that was believed.

    Attributes:
        until: when it ends, in seconds since 1970.
        source: where its key came from, if that was looked at here.
        generation: the source's, then.
        headers: what the upstream is told, as changes.
        consumer: whom later plugins are told of; empty: nobody.
    """

    until: float
    source: KeySource | None
    generation: int
    headers: Mapping[str, tuple[str, ...] | None]
    consumer: str


class JwtAuth(Plugin):
    """Lets requests with a valid token pass."""

    name = "jwt-auth"
    version = "1.0.0"
    priority = 1450
    Config = JwtAuthConfig

    config: JwtAuthConfig

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        own = self.config
        self._place = Place(own.header.lower(), own.scheme.lower(), own.cookie, own.argument)
        self._header = "" if own.cookie or own.argument else own.header
        """The header, if the token can only be there: then its value is what a token is remembered under."""
        self._hides = own.hide
        self._identity = IdentityHeaders(own.forwarded.values())
        self._accepted: dict[str, _Accepted] = {}
        self._looked = 0.0
        self._usable = True
        self._provider = Provider(own.provider_timeout)
        self._verifier = self._make_verifier() if own.has_keys else None
        self._introspector = self._make_introspector()
        self._decisions = counter("jwt_auth_decisions", "Requests looked at, by what came of it.", ["decision"])
        self._remembered = self._decisions.series("remembered")
        self._challenge = "Bearer" + (f' realm="{own.realm}"' if own.realm else "")

    async def teardown(self) -> None:
        """End what is under way with the provider."""
        if self._verifier is not None:
            await self._verifier.source.close()
        if self._introspector is not None:
            await self._introspector.close()
        await self._provider.close()

    async def on_request(self, request: Request) -> Response | None:
        """Judge the request's token."""
        if self._header:
            headers = request.headers
            values = headers.get_all(self._header)
            if len(values) == 1 and (accepted := self._accepted.get(values[0])) is not None and self._holds(accepted):
                self._remembered.count += 1
                self._let_pass(request, headers, accepted)
                return None
        try:
            text = self._place.find(request)
        except AmbiguousCredentialsError as error:
            return self._refuse(400, "invalid_request", str(error))
        if text is None:
            return self._without_token(request)
        if not text.isascii() or len(text) > self.config.max_token_bytes:
            return self._refuse(401, "invalid_token", "the token is not one")
        if self._header:
            return await self._look_at(request, text, request.headers[self._header])
        if (accepted := self._accepted.get(text)) is not None and self._holds(accepted):
            self._remembered.count += 1
            self._let_pass(request, request.headers, accepted)
            return None
        return await self._look_at(request, text, text)

    # --- judging

    async def _look_at(self, request: Request, text: str, came_in: str) -> Response | None:
        try:
            accepted = await self._judge(text, came_in)
        except InvalidTokenError as error:
            return self._refuse(401, "invalid_token", str(error))
        except InsufficientScopeError as error:
            return self._refuse(403, "insufficient_scope", str(error))
        except (KeysUnavailableError, ProviderError) as error:
            return self._unavailable(error)
        self._decisions.add("accepted")
        self._let_pass(request, request.headers, accepted)
        return None

    def _let_pass(self, request: Request, headers: Headers, accepted: _Accepted) -> None:
        if self._hides:
            self._place.remove(request)
        if accepted.headers:
            headers.replace_alike(accepted.headers)
        if accepted.consumer:
            leave_consumer(request, accepted.consumer)

    def _holds(self, accepted: _Accepted) -> bool:
        now, source = time(), accepted.source
        if source is not None:
            if not 0 <= now - self._looked < _LOOK_SECONDS:
                self._look_at_keys(source, now)
            if accepted.generation != source.generation or not self._usable:
                return False
        return now < accepted.until

    def _look_at_keys(self, source: KeySource, now: float) -> None:
        self._looked = now
        if source.due:
            source.refresh_ahead()
        self._usable = monotonic() < source.usable_until

    def _remember(self, came_in: str, accepted: _Accepted) -> None:
        """Keep what came of a token; where there is no room, that goes which came first."""
        known, most = self._accepted, self.config.cache_size
        known.pop(came_in, None)
        while known and len(known) >= most:
            del known[next(iter(known))]
        if most and len(came_in) <= self.config.max_token_bytes + _MOST_BESIDE:
            known[came_in] = accepted

    async def _judge(self, text: str, came_in: str) -> _Accepted:
        source: KeySource | None = None
        if self._verifier is not None and (self._introspector is None or text.count(".") == _PARTS_OF_JWT - 1):
            claims, until = await self._verifier.verify(text)
            source = self._verifier.source
        else:
            assert self._introspector is not None  # noqa: S101 - the configuration has one or the other
            claims, until = await self._introspector.introspect(text)
        consumer = look_up(claims, self.config.consumer_claim) if self.config.consumer_claim else None
        generation = source.generation if source is not None else 0
        until = min(until, time() + self.config.cache_ttl)
        headers = self._identity.all_of(self._headers_of(claims))
        accepted = _Accepted(until, source, generation, headers, header_text(consumer) or "")
        self._usable = True  # the keys were, just now
        self._remember(came_in, accepted)
        return accepted

    def _headers_of(self, claims: dict[str, Any]) -> dict[str, tuple[str, ...]]:
        headers: dict[str, tuple[str, ...]] = {}
        for claim, name in self.config.forwarded.items():
            value = look_up(claims, claim)
            if value is None:
                continue
            text = header_text(value)
            if text is None:
                raise InvalidTokenError(f"the claim {claim} can't be sent in a header")
            headers[name.lower()] = (text,)
        return headers

    # --- answering

    def _without_token(self, request: Request) -> Response | None:
        if not self.config.optional:
            self._decisions.add("missing")
            return Response.json(
                {"error": "unauthorized", "error_description": "a token is needed"},
                401,
                {"www-authenticate": self._challenge},  # without an error: RFC 6750, 3.1
            )
        self._decisions.add("anonymous")
        self._identity.replace(request)
        return None

    def _refuse(self, status: int, error: str, why: str) -> Response:
        self._decisions.add(error)
        self.log.info("refused", extra={"error": error, "why": why})
        challenge = f'{self._challenge}{"," if self.config.realm else ""} error="{error}", error_description="{why}"'
        if status == 403 and self.config.scopes:
            challenge += f', scope="{" ".join(self.config.scopes)}"'
        return Response.json({"error": error, "error_description": why}, status, {"www-authenticate": challenge})

    def _unavailable(self, error: Exception) -> Response:
        """Nobody can be let in now. An answer, not an exception, which `allow_degradation` would let pass."""
        self._decisions.add("unavailable")
        self.log.warning("tokens can't be judged", extra={"why": str(error)})
        body = {"error": "temporarily_unavailable", "error_description": "tokens can't be judged at the moment"}
        return Response.json(body, 503, {"retry-after": "5"})

    # --- making

    def _make_verifier(self) -> Verifier:
        own = self.config
        return Verifier(
            self._make_source(),
            own.allowed_algorithms,
            own.rules(of_introspection=False),
            [t.lower() for t in own.types],
        )

    def _make_source(self) -> KeySource:
        own, algorithms = self.config, self.config.allowed_algorithms
        if own.secret is not None:
            return ConfiguredKeys(own.secret.reveal, lambda text: [secret_key(text, algorithms)])
        if own.public_key is not None:
            return ConfiguredKeys(own.public_key.reveal, lambda text: keys_from_pem(text, algorithms))
        if own.jwks:
            keys = keys_of_document(own.jwk_document(), algorithms)
            return ConfiguredKeys(str, lambda _: keys)
        return FetchedKeys(self._fetch_keys, algorithms, own.freshness, self.log)

    async def _fetch_keys(self) -> tuple[Any, float | None]:
        own = self.config
        url = own.jwks_url or await self._provider.discover(own.discover)
        return await self._provider.get_json(url)

    def _make_introspector(self) -> Introspector | None:
        asked = self.config.introspection
        if asked is None:
            return None
        secret = asked.client_secret
        endpoint = Endpoint(
            asked.url, asked.client_id, secret.reveal if secret is not None else str, asked.client_auth == "post"
        )
        rules = self.config.rules(of_introspection=True)
        return Introspector(self._provider, endpoint, rules, ttl=asked.ttl, refused_ttl=asked.refused_ttl)
