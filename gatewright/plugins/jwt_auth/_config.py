"""The configuration of jwt-auth, each field with its meaning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from gatewright import ConfigError, Secret
from gatewright.plugins._shared.model import field
from gatewright.plugins.jwt_auth._claims import ClaimRules
from gatewright.plugins.jwt_auth._key_source import Freshness
from gatewright.plugins.jwt_auth._keys import ALGORITHMS, ASYMMETRIC
from gatewright.plugins.jwt_auth._provider import check_url

__all__ = ["Introspection", "JwtAuthConfig"]

_KEY_KINDS = ("secret", "public_key", "jwks", "jwks_url", "discover")


class Introspection(msgspec.Struct, frozen=True, kw_only=True):
    """Asking the provider what an opaque token stands for (RFC 7662)."""

    url: Annotated[str, field("The provider's introspection endpoint, an https:// URL.")]
    client_id: Annotated[str, field("As whom to ask; empty: without credentials.")] = ""
    client_secret: Annotated[Secret | None, field("The client's secret, as $env://NAME or file:/path if you like.")] = (
        None
    )
    client_auth: Annotated[
        Literal["basic", "post"], field("How id and secret are sent: in the header or the form.")
    ] = "basic"
    ttl: Annotated[float, field("How long an answer is used, unless the token ends sooner.", unit="seconds", ge=0)] = (
        60.0
    )
    refused_ttl: Annotated[
        float, field("How long a token that is not active isn't asked about again.", unit="seconds", ge=0)
    ] = 10.0

    def __post_init__(self) -> None:
        check_url(self.url, "introspection.url")
        if bool(self.client_id) != (self.client_secret is not None):
            raise ValueError("introspection wants client_id and client_secret, or neither")


class JwtAuthConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Whose tokens are believed, where they are found, and what of them the upstream is told."""

    secret: Annotated[
        Secret | None, field("A shared secret, for HS256, HS384 and HS512: 32, 48 or 64 bytes at least.")
    ] = None
    public_key: Annotated[Secret | None, field("A public key or certificate in PEM, or file:/path of one.")] = None
    jwks: Annotated[str | dict[str, Any], field("A JWK or a JWK set, as an object or as JSON text.")] = ""
    jwks_url: Annotated[str, field("Where the provider's JWK set is, an https:// URL.")] = ""
    discover: Annotated[
        str, field("An OpenID Connect issuer: its keys are found by discovery, and `iss` has to be this.")
    ] = ""
    introspection: Annotated[
        Introspection | None, field("Whom to ask about tokens that are no JWT; without keys, about all.")
    ] = None
    algorithm: Annotated[str, field("The one algorithm that tokens may be signed with.")] = ""
    algorithms: Annotated[
        tuple[str, ...],
        field(
            "The algorithms that tokens may be signed with. Default: HS256 with `secret`, else RS, PS, ES and EdDSA."
        ),
    ] = ()
    issuers: Annotated[tuple[str, ...], field("`iss` has to be one of these; none: it isn't looked at.")] = ()
    audiences: Annotated[tuple[str, ...], field("`aud` has to hold one of these; none: it isn't looked at.")] = ()
    required_claims: Annotated[
        tuple[str, ...] | None,
        field("Claims that have to be there, by name or JSON pointer. Default: `exp`; after introspection none."),
    ] = None
    claim_values: Annotated[
        dict[str, tuple[str, ...]],
        field("Claims (by name or JSON pointer) that have to be, or hold, one of these values; otherwise 403."),
    ] = {}
    scopes: Annotated[tuple[str, ...], field("Scopes that the token has to have, all of them; otherwise 403.")] = ()
    types: Annotated[
        tuple[str, ...],
        field("What the header's `typ` may be, in lower case; an empty text stands for none. No types: any."),
    ] = ("", "jwt", "at+jwt")
    leeway: Annotated[float, field("By how much clocks may differ.", unit="seconds", ge=0, le=600)] = 30.0
    max_age: Annotated[float, field("How long ago `iat` may be; 0: it isn't looked at.", unit="seconds", ge=0)] = 0.0
    header: Annotated[str, field("The header that holds the token; empty: none.")] = "authorization"
    scheme: Annotated[str, field("What stands before the token in that header; empty: nothing.")] = "Bearer"
    cookie: Annotated[str, field("A cookie that may hold the token; empty: none.")] = ""
    argument: Annotated[str, field("An argument of the query that may hold the token; empty: none.")] = ""
    hide: Annotated[bool, field("Don't send the token on to the upstream.")] = False
    optional: Annotated[bool, field("Let requests without a token pass, too; a bad token is refused all the same.")] = (
        False
    )
    claims_to_headers: Annotated[
        dict[str, str] | None,
        field(
            "Headers for the upstream by claim (name or JSON pointer); a client's own are always removed. "
            "Default: `sub` in x-jwt-sub."
        ),
    ] = None
    consumer_claim: Annotated[
        str, field("The claim that later plugins take for the consumer, as in the key {consumer}; empty: none.")
    ] = ""
    realm: Annotated[str, field("The realm in WWW-Authenticate.", pattern=r"^[ !#-\[\]-~]*$")] = "api"
    keys_ttl: Annotated[float, field("Fetched keys are used so long without asking again.", unit="seconds", ge=10)] = (
        300.0
    )
    keys_stale: Annotated[
        float, field("And so much longer while the provider doesn't answer.", unit="seconds", ge=0)
    ] = 3600.0
    keys_min_interval: Annotated[
        float, field("Between two fetches of keys, whatever tokens come.", unit="seconds", ge=0.1)
    ] = 10.0
    provider_timeout: Annotated[float, field("For one question to the provider.", unit="seconds", gt=0, le=60)] = 5.0
    cache_size: Annotated[
        int, field("Verified tokens that are remembered, in each worker; 0: none.", unit="tokens", ge=0)
    ] = 10_000
    cache_ttl: Annotated[float, field("How long a verified token is remembered at most.", unit="seconds", ge=0)] = 300.0
    max_token_bytes: Annotated[int, field("The longest token that is looked at.", unit="bytes", ge=64)] = 8192

    def __post_init__(self) -> None:
        kinds = [name for name in _KEY_KINDS if getattr(self, name)]
        if len(kinds) > 1:
            raise ValueError(f"{' and '.join(kinds)}: give keys in one way only")
        if not kinds and self.introspection is None:
            raise ValueError(
                f"without keys no token can be verified: give one of {', '.join(_KEY_KINDS)}, or introspection"
            )
        if self.algorithm and self.algorithms:
            raise ValueError("give algorithm or algorithms, not both")
        for name in self.allowed_algorithms:
            if name not in ALGORITHMS:
                raise ValueError(f"the algorithm {name!r} is not accepted; there are {', '.join(ALGORITHMS)}")
            if name in ASYMMETRIC and self.secret is not None:
                raise ValueError(f"{name} wants a public key, and `secret` is none")
            if name not in ASYMMETRIC and kinds and kinds[0] not in ("secret", "jwks"):
                raise ValueError(f"{name} wants a secret, and {kinds[0]} has public keys")
        if not (self.header or self.cookie or self.argument):
            raise ValueError("the token has to come from somewhere: header, cookie or argument")
        for name in ("jwks_url", "discover"):
            if getattr(self, name):
                check_url(getattr(self, name), name)
        if self.discover and self.issuers:
            raise ValueError("with discover the issuer is known: leave issuers out")
        for name, values in self.claim_values.items():
            if not values:
                raise ValueError(f"claim_values.{name} has no values, so no token would do")

    @property
    def allowed_algorithms(self) -> tuple[str, ...]:
        """What tokens may be signed with."""
        if self.algorithm:
            return (self.algorithm,)
        return self.algorithms or (("HS256",) if self.secret is not None else ASYMMETRIC)

    @property
    def forwarded(self) -> Mapping[str, str]:
        """Headers for the upstream, by claim."""
        return {"sub": "x-jwt-sub"} if self.claims_to_headers is None else self.claims_to_headers

    @property
    def has_keys(self) -> bool:
        """Whether tokens are verified here."""
        return any(getattr(self, name) for name in _KEY_KINDS)

    def rules(self, *, of_introspection: bool) -> ClaimRules:
        """The rules for claims."""
        by_default: tuple[str, ...] = () if of_introspection else ("exp",)
        return ClaimRules(
            issuers=frozenset((self.discover,) if self.discover else self.issuers),
            audiences=frozenset(self.audiences),
            required=by_default if self.required_claims is None else self.required_claims,
            values=self.claim_values,
            scopes=frozenset(self.scopes),
            leeway=self.leeway,
            max_age=self.max_age or None,
        )

    @property
    def freshness(self) -> Freshness:
        """How old fetched keys may be."""
        return Freshness(ttl=self.keys_ttl, stale=self.keys_stale, min_interval=self.keys_min_interval)

    def jwk_document(self) -> Any:
        """The configured JWK or JWK set.

        Raises:
            ConfigError: it is no JSON.
        """
        if not isinstance(self.jwks, str):
            return self.jwks
        try:
            return json.loads(self.jwks)
        except ValueError as error:
            raise ConfigError(f"jwks is not JSON: {error}") from None
