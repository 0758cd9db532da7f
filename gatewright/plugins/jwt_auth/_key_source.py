"""Where keys come from: the configuration, or a URL that is asked again before its answer is too old.

Of a URL's keys four things are wanted that pull in different directions: that a new key is known at once, that a key
that was withdrawn is soon no longer believed, that the provider may be away for a while, and that no stranger's tokens
make us ask it without end. Hence, of one fetch after another:

    fetched ──── refresh ahead ──── expired ──── stale ────▶ unusable
             fresh: used      asked in the     used while the    tokens are refused
                              background       provider fails    until it answers

A token with a name of a key that isn't there has the provider asked, once for all who wait, no sooner than
`min_interval` after the last time, and not again for the same name for a while.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Protocol

from gatewright import ConfigError
from gatewright.plugins.jwt_auth._keys import Key, keys_from_jwks, select

__all__ = ["ConfiguredKeys", "FetchedKeys", "Freshness", "KeySource", "KeysUnavailableError", "keys_of_document"]

log = logging.getLogger("gatewright.plugin.jwt-auth")
_MOST_UNKNOWN: Final = 1000
_AHEAD: Final = 0.8  # of its time a set is fresh; then it is fetched again, while it is still used


class KeysUnavailableError(Exception):
    """The keys can't be had now, so no token can be judged."""


class KeySource(Protocol):
    """Keys to verify with.

    Attributes:
        generation: changes whenever a key is no longer to be believed, and with it what was verified before.
        usable_until: when the keys are too old to be used, in `time.monotonic`'s seconds.
    """

    generation: int
    usable_until: float

    @property
    def due(self) -> bool:
        """Whether `refresh_ahead` is to be called."""

    def refresh_ahead(self) -> None:
        """Begin to fetch anew, for nobody in particular."""

    async def find(self, alg: str, kid: str | None) -> Sequence[Key]:
        """The keys that a token may have been signed with."""

    async def renew(self) -> bool:
        """Fetch again if that is allowed now; whether there may be other keys than before."""

    async def close(self) -> None:
        """End what goes on."""


class ConfiguredKeys:
    """Keys that the configuration holds, or says where to find: in a file, which may change."""

    usable_until = inf

    def __init__(self, reveal: Callable[[], str], read: Callable[[str], Sequence[Key]]) -> None:
        """Read the keys.

        Args:
            reveal: gives the text that the keys are in; cheap.
            read: makes keys of it.

        Raises:
            ConfigError: the text can't be had, or has no key.
        """
        self.generation = 0
        self._reveal = reveal
        self._read = read
        self._text = reveal()
        self._keys = read(self._text)

    @property
    def due(self) -> bool:
        """The text has changed."""
        return self._reveal() != self._text

    def refresh_ahead(self) -> None:
        """Read the new text; one that has no key is told once, and the keys of before stay."""
        self._text = self._reveal()
        try:
            self._keys = self._read(self._text)
        except ConfigError as error:
            log.warning("the key has changed, but can't be used, and the one of before stays: %s", error)
        else:
            self.generation += 1

    async def find(self, alg: str, kid: str | None) -> Sequence[Key]:
        """The keys that a token may have been signed with."""
        if self.due:
            self.refresh_ahead()
        return select(self._keys, alg, kid)

    async def renew(self) -> bool:
        """There never are others."""
        return False

    async def close(self) -> None:
        """Nothing goes on."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old fetched keys may be, seconds.

    Attributes:
        ttl: at most so long they are used without asking again; the provider's `max-age` may shorten it.
        stale: so much longer, while the provider fails.
        min_interval: between two fetches, whatever tokens come.
        unknown: so long a key's name that isn't there makes nobody ask again.
    """

    ttl: float = 300.0
    stale: float = 3600.0
    min_interval: float = 10.0
    unknown: float = 60.0


class FetchedKeys:
    """Keys of a JWK set that is fetched."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[tuple[Any, float | None]]],
        algorithms: Collection[str],
        freshness: Freshness,
        log: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is fetched yet.

        Args:
            fetch: gets the JWK set, and for how many seconds the provider says it may be kept, if it does.
            algorithms: what the configuration allows.
            freshness: how old the keys may be.
            log: where failures are told.
            clock: monotonic seconds.
        """
        self.generation = 0
        self.usable_until = -inf
        self._fetch = fetch
        self._algorithms = algorithms
        self._freshness = freshness
        self._log = log
        self._clock = clock
        self._keys: Sequence[Key] = ()
        self._entries: frozenset[str] = frozenset()
        self._unknown: dict[str, float] = {}
        self._refresh_at = -inf
        self._last_try = -inf
        self._failure: str | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def due(self) -> bool:
        """The keys are usable, but it is time to fetch them anew, and allowed."""
        now = self._clock()
        return now >= self._refresh_at and self._may_try(now)

    def refresh_ahead(self) -> None:
        """Begin to fetch anew; whoever needs keys meanwhile has the old ones."""
        self._begin()

    async def find(self, alg: str, kid: str | None) -> Sequence[Key]:
        """The keys that a token may have been signed with.

        Raises:
            KeysUnavailableError: there are none young enough, and the provider doesn't give any.
        """
        now = self._clock()
        if now >= self.usable_until:
            if self._running is None and not self._may_try(now):
                raise KeysUnavailableError(self._failure or "not fetched yet")
            await self._wait()
            if self._clock() >= self.usable_until:
                raise KeysUnavailableError(self._failure or "not fetched yet")
        elif self.due:
            self._begin()
        found = select(self._keys, alg, kid)
        if found or kid is None or any(key.kid == kid for key in self._keys):
            return found
        if self._clock() < self._unknown.get(kid, -inf) or not await self.renew():
            return ()
        found = select(self._keys, alg, kid)
        if not found:
            self._remember_unknown(kid)
        return found

    async def renew(self) -> bool:
        """Fetch again, if the last time is long enough ago or a fetch is under way; whether that was done."""
        if self._running is None and not self._may_try(self._clock()):
            return False
        await self._wait()
        return True

    async def close(self) -> None:
        """End a fetch that is under way."""
        if (running := self._running) is not None:
            running.cancel()
            await asyncio.wait([running])

    # --- fetching

    def _may_try(self, now: float) -> bool:
        return self._running is None and now - self._last_try >= self._freshness.min_interval

    def _begin(self) -> asyncio.Task[None]:
        if self._running is None:
            self._last_try = self._clock()
            self._running = asyncio.get_running_loop().create_task(self._refresh())
            self._running.add_done_callback(self._ended)
        return self._running

    def _ended(self, _: object) -> None:
        self._running = None

    async def _wait(self) -> None:
        """Wait for the one fetch that is under way; if the waiting call ends, the fetch goes on for the others."""
        await asyncio.shield(self._begin())

    async def _refresh(self) -> None:
        try:
            document, max_age = await self._fetch()
            keys, left_out = keys_from_jwks(document, self._algorithms, secrets=False)
        except Exception as error:  # the provider's: told, and judged by whoever needs keys
            text = str(error) or type(error).__name__
            kept = self._clock() < self.usable_until
            if text != self._failure or not kept:
                self._log.warning(
                    "the keys can't be fetched: %s (%s)",
                    text,
                    "the old ones are used" if kept else "tokens are refused",
                )
            self._failure = text
            return
        if self._failure is not None:
            self._log.info("the keys can be fetched again")
        self._failure = None
        self._take(document, keys, left_out, max_age)

    def _take(self, document: Any, keys: Sequence[Key], left_out: Sequence[str], max_age: float | None) -> None:
        listed = document["keys"] if isinstance(document, dict) and "keys" in document else [document]
        entries = frozenset(json.dumps(entry, sort_keys=True) for entry in listed)
        if not self._entries <= entries:
            self.generation += 1
        if entries != self._entries:
            self._unknown.clear()
            if left_out:
                self._log.info("keys that can't be used: %s", "; ".join(left_out[:10]))
        self._keys, self._entries = keys, entries
        freshness = self._freshness
        fresh = freshness.ttl if max_age is None else max(min(max_age, freshness.ttl), freshness.min_interval)
        now = self._clock()
        self._refresh_at = now + fresh * _AHEAD
        self.usable_until = now + fresh + freshness.stale

    def _remember_unknown(self, kid: str) -> None:
        if len(self._unknown) >= _MOST_UNKNOWN:
            del self._unknown[next(iter(self._unknown))]
        self._unknown[kid] = self._clock() + self._freshness.unknown


def keys_of_document(document: Any, algorithms: Collection[str]) -> Sequence[Key]:
    """The keys of a JWK or JWK set in the configuration: there each has to be usable.

    Raises:
        ConfigError: one is not; says which and why.
    """
    keys, left_out = keys_from_jwks(document, algorithms, secrets=True)
    if left_out:
        raise ConfigError("; ".join(left_out))
    return keys
