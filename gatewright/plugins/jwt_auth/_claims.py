"""What a token has to say, once its signature is known to be right: for whom, by whom, from when to when, what for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from gatewright.plugins.jwt_auth._token import InvalidTokenError

__all__ = ["ClaimRules", "InsufficientScopeError", "look_up", "scopes_of"]


class InsufficientScopeError(Exception):
    """The token is right, but not for this: it lacks scopes or has other values than are asked for."""


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """The rules for claims; all times in seconds.

    Attributes:
        issuers: `iss` is one of these; none: not looked at.
        audiences: `aud` holds one of these; none: not looked at.
        required: claims that have to be there.
        values: claims that have to have (or, if lists, hold) one of the given values.
        scopes: all of these, in `scope` or `scp`.
        leeway: by how much clocks may differ.
        max_age: how long ago `iat` may be; `None`: not looked at.
    """

    issuers: frozenset[str] = frozenset()
    audiences: frozenset[str] = frozenset()
    required: Sequence[str] = ()
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    scopes: frozenset[str] = frozenset()
    leeway: float = 0.0
    max_age: float | None = None

    def check(self, claims: Mapping[str, Any], now: float) -> float:
        """See that the claims keep the rules; gives the time from which on they no longer do.

        Raises:
            InvalidTokenError: they don't.
            InsufficientScopeError: they do, but the token is not for this.
        """
        for name in ("iss", "sub", "jti"):
            if name in claims and not isinstance(claims[name], str):
                raise InvalidTokenError(f"the claim {name} is not text")
        for name in self.required:
            if look_up(claims, name) is None:
                raise InvalidTokenError(f"the claim {name} is missing")
        until = self._check_times(claims, now)
        if self.issuers and claims.get("iss") not in self.issuers:
            raise InvalidTokenError("the token is from another issuer")
        if self.audiences and self.audiences.isdisjoint(_audiences(claims)):
            raise InvalidTokenError("the token is for another audience")
        for name, values in self.values.items():
            if not _has_one_of(look_up(claims, name), values):
                raise InsufficientScopeError(f"the claim {name} has none of the values asked for")
        if not self.scopes <= scopes_of(claims):
            raise InsufficientScopeError("the token lacks a scope")
        return until

    def _check_times(self, claims: Mapping[str, Any], now: float) -> float:
        expires, begins, issued = (_date(claims, name) for name in ("exp", "nbf", "iat"))
        until = inf
        if expires is not None:
            until = expires + self.leeway
            if now >= until:
                raise InvalidTokenError("the token has expired")
        for start in (begins, issued):
            if start is not None and start > now + self.leeway:
                raise InvalidTokenError("the token is not valid yet")
        if self.max_age is not None:
            if issued is None:
                raise InvalidTokenError("the claim iat is missing")
            until = min(until, issued + self.max_age + self.leeway)
            if now >= until:
                raise InvalidTokenError("the token is too old")
        return until


def look_up(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or by a JSON pointer to a part of one (`/realm_access/roles`); `None` where it isn't."""
    if not name.startswith("/") or name in claims:
        return claims.get(name)
    value: Any = claims
    for part in name[1:].split("/"):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part.replace("~1", "/").replace("~0", "~"))
    return value


def scopes_of(claims: Mapping[str, Any]) -> frozenset[str]:
    """The scopes: `scope` is text with spaces between them (RFC 8693, 4.2), `scp` often a list."""
    found: set[str] = set()
    for name in ("scope", "scp"):
        value = claims.get(name)
        if isinstance(value, str):
            found.update(value.split(" "))
        elif isinstance(value, list):
            found.update(item for item in value if isinstance(item, str))
    return frozenset(found)


def _date(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519, 2): a JSON number. `"1735689600"`, `true` and `null` are none."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not -(2**53) < value < 2**53:
        raise InvalidTokenError(f"the claim {name} is not a time")
    return float(value)


def _audiences(claims: Mapping[str, Any]) -> Iterable[str]:
    value = claims.get("aud", [])
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        raise InvalidTokenError("the claim aud is not text, nor a list of it")
    return values


def _has_one_of(value: Any, wanted: Sequence[str]) -> bool:
    values = value if isinstance(value, list) else [value]
    return any(_plain(item) in wanted for item in values)


def _plain(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else None
