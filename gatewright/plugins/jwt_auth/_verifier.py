"""Judging a token: its form, its key, its signature, its claims, in this order."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

from gatewright.plugins.jwt_auth._claims import ClaimRules
from gatewright.plugins.jwt_auth._key_source import KeySource
from gatewright.plugins.jwt_auth._token import InvalidTokenError, SignedToken, read_claims, read_token

__all__ = ["Verifier"]


class Verifier:
    """Verifies tokens with the keys of one source."""

    def __init__(
        self,
        source: KeySource,
        algorithms: Collection[str],
        rules: ClaimRules,
        types: Collection[str],
        now: Callable[[], float] = time.time,
    ) -> None:
        """Make a verifier.

        Args:
            source: where keys come from.
            algorithms: those that tokens may be signed with.
            rules: what claims have to say.
            types: the media types that `typ` may have, in lower case; `""` stands for none; no types: any.
            now: seconds since 1970.
        """
        self.source = source
        self._algorithms = frozenset(algorithms)
        self._rules = rules
        self._types = frozenset(types)
        self._now = now

    async def verify(self, text: str) -> tuple[dict[str, Any], float]:
        """The claims of a token, and until when they hold.

        Raises:
            InvalidTokenError: the token is not one to believe.
            InsufficientScopeError: it is, but not for this.
            KeysUnavailableError: the keys can't be had.
        """
        token = read_token(text)
        if token.alg not in self._algorithms:
            raise InvalidTokenError("the token's algorithm is not accepted")
        if self._types and token.typ not in self._types:
            raise InvalidTokenError("the token is of another type")
        # A token that names no key may be from one that was added since.
        if not await self._is_signed(token) and not (
            token.kid is None and await self.source.renew() and await self._is_signed(token)
        ):
            raise InvalidTokenError("the token's signature can't be verified")
        claims = read_claims(token)
        return claims, self._rules.check(claims, self._now())

    async def _is_signed(self, token: SignedToken) -> bool:
        keys = await self.source.find(token.alg, token.kid)
        return any(key.verifies(token.alg, token.signed, token.signature) for key in keys)
