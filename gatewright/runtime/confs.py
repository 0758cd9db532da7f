"""Conf tokens: what a gateway gets for a configuration and presents with each call.

A token is the hash of key and configuration, so that every worker, and the same runner after a restart, gives the same
token to the same configuration, and a token of another configuration is unknown rather than taken for this one. Two
configurations whose tokens collide get different ones: the table compares whole digests, and tries the next hash. With
several workers one table, the supervisor's, gives all tokens out.

A gateway keeps a token for up to 1.9 times its cache time without ever calling (0.9 in its shared memory, then another
1.0 in a worker's own cache), so a configuration lives for at least twice that time after its last use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Generic, Protocol, TypeVar

from gatewright.runtime.chain import Chain
from gatewright.runtime.weight import expanded_size

__all__ = [
    "MOST_CONF_BYTES", "Conf", "ConfStore", "TokenTable", "conf_digest", "conf_size", "instance_id_of", "token_of",
]  # fmt: skip

Conf = Sequence[tuple[str, str]]

MOST_CONF_BYTES: Final = 1 << 28
"""Of all configurations together, as they are in memory; etcd, where APISIX's are, has 2 GiB for all by default."""
_ENTRY_BYTES: Final = 100
_TICKS = 8  # ticks in one cache time


def conf_digest(key: str, conf: Conf) -> bytes:
    """A digest of a configuration under its key; lengths go in too, so that no two can run together."""
    digest = hashlib.blake2b(digest_size=16)
    for text in (key, *(part for entry in conf for part in entry)):
        raw = text.encode("utf-8", "surrogateescape")
        digest.update(len(raw).to_bytes(4, "big"))
        digest.update(raw)
    return digest.digest()


def conf_size(key: str | bytes, conf: Sequence[tuple[str, str]] | Sequence[tuple[bytes, bytes]]) -> int:
    """About how many bytes a configuration takes up."""
    return len(key) + sum(len(name) + expanded_size(text) + _ENTRY_BYTES for name, text in conf)


def token_of(digest: bytes, attempt: int = 0) -> int:
    """The 32-bit token for a digest; a higher attempt gives another one."""
    salt = attempt.to_bytes(4, "big")
    return int.from_bytes(hashlib.blake2b(digest, digest_size=4, salt=salt).digest(), "big")


def instance_id_of(digest: bytes, attempt: int = 0) -> int:
    """As `token_of`, for Kong: its ids are positive and signed, and 0 can't be told from none."""
    return (token_of(digest, attempt) & 0x7FFFFFFF) or 1


class _Used(Protocol):
    last_used: int


T = TypeVar("T", bound=_Used)


class TokenTable(Generic[T]):
    """Things by token, each forgotten a while after its last use."""

    def __init__(
        self,
        *,
        expire: float = 3600.0,
        keep_ticks: int = 2 * _TICKS + 2,
        on_evict: Callable[[T], None] | None = None,
        hash_token: Callable[[bytes, int], int] = token_of,
        most: int = 1 << 32,
        most_bytes: int = 1 << 62,
    ) -> None:
        """Make an empty table.

        Args:
            expire: the gateway's cache time in seconds (`APISIX_CONF_EXPIRE_TIME`).
            keep_ticks: how many ticks (eighths of the cache time) a thing is kept after its last use.
            on_evict: told of each thing that is dropped.
            hash_token: digest and attempt to token.
            most: how many there may be. Beyond that, some of those go that were not used again since the first time;
                if all were, those that were used longest ago.
            most_bytes: how large all may be together.
        """
        self._on_evict = on_evict
        self._most = most
        self._most_bytes = most_bytes
        self._first: dict[int, int] = {}
        self._unused: set[int] = set()
        self._sizes: dict[int, int] = {}
        self.bytes = 0
        self._hash_token = hash_token
        self._keep_ticks = keep_ticks
        self.tick_seconds = expire / _TICKS
        """How often `tick` is to be called."""
        self.by_token: dict[int, T] = {}
        """For the hot path; whoever uses a thing sets its `last_used` to `now`. Until then it's the tick before that in
        which it came.
        """
        self._digests: dict[int, bytes] = {}
        self._tokens: dict[bytes, int] = {}
        self.now = 0

    def __len__(self) -> int:
        return len(self.by_token)

    def __iter__(self) -> Iterator[T]:
        return iter(self.by_token.values())

    def items(self) -> Iterator[tuple[int, T]]:
        """Tokens and things."""
        return iter(self.by_token.items())

    def find(self, digest: bytes) -> int | None:
        """The token that a configuration has, if it is here."""
        token = self._tokens.get(digest)
        if token is not None and self.now > self._first[token]:  # before, it's another of the gateway's workers
            self.by_token[token].last_used = self.now
        return token

    def assign(self, digest: bytes, thing: T, size: int = 0) -> int:
        """Take a new thing of some size in and give it the first token of its digest that is free."""
        if len(self.by_token) >= self._most or self.bytes + size > self._most_bytes:
            self._make_room(size)
        attempt = 0
        while (token := self._hash_token(digest, attempt)) in self._digests:
            attempt += 1
        self.put(token, digest, thing)
        self._sizes[token] = size
        self.bytes += size
        return token

    def _make_room(self, size: int) -> None:
        # A sixteenth at once, so that the sorting is paid for by many that come.
        by_use = sorted(self.by_token, key=self._worth)
        few = max(len(by_use) // 16, 1)
        for number, token in enumerate(by_use):
            if number >= few and self.bytes + size <= self._most_bytes:
                return
            self._drop(token)

    def _worth(self, token: int) -> tuple[bool, int]:
        used = self.by_token[token].last_used
        return used >= self._first[token], used

    def put(self, token: int, digest: bytes, thing: T) -> None:
        """Take a thing in under a token that was assigned elsewhere; what had that token before is dropped."""
        thing.last_used = self.now - 1
        if token in self._digests:
            self._drop(token)
        self.by_token[token] = thing
        self._first[token] = self.now
        self._unused.add(token)
        self._digests[token] = digest
        self._tokens[digest] = token

    def forget(self, token: int) -> T | None:
        """Drop a thing at once; gives it, or `None` if it isn't here."""
        thing = self.by_token.get(token)
        if thing is not None:
            self._drop(token)
        return thing

    def get(self, token: int) -> T | None:
        """The thing of a token, `None` for an unknown one."""
        thing = self.by_token.get(token)
        if thing is not None:
            thing.last_used = self.now
        return thing

    def newly_used(self) -> list[int]:
        """The tokens that were used for the first time since this was asked last."""
        used = [token for token in self._unused if self.by_token[token].last_used >= self._first[token]]
        self._unused.difference_update(used)
        return used

    def used_since(self, tick: int) -> list[int]:
        """The tokens used at `tick` or later."""
        return [token for token, thing in self.by_token.items() if thing.last_used >= tick]

    def tick(self) -> None:
        """Let time pass: drop what was last used more than twice the cache time ago."""
        self.now += 1
        oldest = self.now - self._keep_ticks
        for token in [token for token, thing in self.by_token.items() if thing.last_used < oldest]:
            self._drop(token)

    def _drop(self, token: int) -> None:
        thing = self.by_token.pop(token)
        del self._first[token]
        self._unused.discard(token)
        self.bytes -= self._sizes.pop(token, 0)
        del self._tokens[self._digests.pop(token)]
        if self._on_evict is not None:
            self._on_evict(thing)


class ConfStore(TokenTable[Chain]):
    """The chains in use, by token."""

    def __init__(
        self,
        make_chain: Callable[[str, Conf], Chain],
        *,
        expire: float = 3600.0,
        on_evict: Callable[[Chain], None] | None = None,
        hash_token: Callable[[bytes, int], int] = token_of,
        most: int = 1 << 32,
    ) -> None:
        """Make an empty store.

        Args:
            make_chain: makes a (not yet built) chain of a key and a configuration.
            expire: see `TokenTable`.
            on_evict: see `TokenTable`.
            hash_token: see `TokenTable`.
            most: see `TokenTable`.
        """
        super().__init__(expire=expire, on_evict=on_evict, hash_token=hash_token, most=most, most_bytes=MOST_CONF_BYTES)
        self._make_chain = make_chain

    def prepare(self, key: str, conf: Conf) -> tuple[int, Chain, bool]:
        """The token for a configuration, its chain, and whether it's new (and so has to be built)."""
        digest = conf_digest(key, conf)
        token = self.find(digest)
        if token is not None:
            return token, self.by_token[token], False
        chain = self._make_chain(key, conf)
        chain.token = self.assign(digest, chain, conf_size(key, conf))
        return chain.token, chain, True

    def take(self, token: int, digest: bytes, key: str, conf: Conf) -> tuple[Chain, bool]:
        """The chain of a configuration whose token another table assigned, and whether it's new."""
        if self.find(digest) == token:
            return self.by_token[token], False
        chain = self._make_chain(key, conf)
        chain.token = token
        self.put(token, digest, chain)
        return chain, True
