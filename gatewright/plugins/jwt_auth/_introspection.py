"""Opaque tokens: the provider is asked what they stand for (RFC 7662), once for all who wait."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from gatewright.plugins.jwt_auth._claims import ClaimRules
from gatewright.plugins.jwt_auth._provider import Provider, ProviderError
from gatewright.plugins.jwt_auth._token import InvalidTokenError

__all__ = ["Endpoint", "Introspector"]

_MOST_REFUSED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Whom to ask.

    Attributes:
        url: the introspection endpoint.
        client_id: as whom; empty: without credentials.
        client_secret: gives the secret, which may change.
        in_body: id and secret go into the form (`client_secret_post`) rather than the header Authorization.
    """

    url: str
    client_id: str
    client_secret: Callable[[], str]
    in_body: bool


class Introspector:
    """Asks one endpoint, and remembers for a while which tokens are none."""

    def __init__(
        self,
        provider: Provider,
        endpoint: Endpoint,
        rules: ClaimRules,
        *,
        ttl: float,
        refused_ttl: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Make one.

        Args:
            provider: the client.
            endpoint: whom to ask.
            rules: what the answer has to say.
            ttl: seconds for which an answer holds, if the token doesn't end sooner.
            refused_ttl: seconds for which a token that is not active isn't asked about again.
            now: seconds since 1970.
        """
        self._provider = provider
        self._endpoint = endpoint
        self._rules = rules
        self._ttl = ttl
        self._refused_ttl = refused_ttl
        self._now = now
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self._running: dict[bytes, asyncio.Task[Any]] = {}

    async def introspect(self, text: str) -> tuple[dict[str, Any], float]:
        """What a token stands for, and until when that holds.

        Args:
            text: the token.

        Raises:
            InvalidTokenError: it isn't active.
            InsufficientScopeError: it is, but not for this.
            ProviderError: the endpoint can't be asked.
        """
        digest = sha256(text.encode()).digest()  # anybody's tokens are kept here, also such that are none
        now = self._now()
        if now < self._refused.get(digest, 0.0):
            raise InvalidTokenError("the token is not active")
        task = self._running.get(digest)
        if task is None:
            task = self._running[digest] = asyncio.get_running_loop().create_task(self._ask(text))
            task.add_done_callback(lambda done: self._ended(digest, done))
        answer = await asyncio.shield(task)
        if answer.get("active") is not True:
            self._refuse(digest)
            raise InvalidTokenError("the token is not active")
        now = self._now()
        return answer, min(self._rules.check(answer, now), now + self._ttl)

    async def close(self) -> None:
        """End what is under way."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def _ended(self, digest: bytes, task: asyncio.Task[Any]) -> None:
        self._running.pop(digest, None)
        if not task.cancelled():
            task.exception()  # nobody may wait for it any more

    async def _ask(self, text: str) -> dict[str, Any]:
        endpoint = self._endpoint
        fields = {"token": text, "token_type_hint": "access_token"}
        client = None
        if endpoint.client_id and endpoint.in_body:
            fields |= {"client_id": endpoint.client_id, "client_secret": endpoint.client_secret()}
        elif endpoint.client_id:
            client = endpoint.client_id, endpoint.client_secret()
        answer = await self._provider.post_form(endpoint.url, fields, client=client)
        if not isinstance(answer, dict) or not isinstance(answer.get("active"), bool):
            raise ProviderError(f"{endpoint.url} answered without saying whether the token is active")
        return answer

    def _refuse(self, digest: bytes) -> None:
        refused = self._refused
        refused[digest] = self._now() + self._refused_ttl
        while len(refused) > _MOST_REFUSED:
            refused.popitem(last=False)
