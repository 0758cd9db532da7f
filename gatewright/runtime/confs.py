"""Conf tokens: what a gateway gets for a configuration and presents with each call.

A token is the hash of key and configuration, so that every worker, and the same runner after a restart, gives the same
token to the same configuration, and a token of another configuration is unknown rather than taken for this one. Two
configurations whose tokens collide get different ones: the store compares whole digests, and tries the next hash.

A gateway keeps a token for up to 1.9 times its cache time without ever calling (0.9 in its shared memory, then another
1.0 in a worker's own cache), so a configuration lives for at least twice that time after its last use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

from gatewright.runtime.chain import Chain

__all__ = ["ConfStore", "conf_digest", "token_of"]

Conf = Sequence[tuple[str, str]]

_TICKS = 8  # ticks in one cache time


def conf_digest(key: str, conf: Conf) -> bytes:
    """A digest of a configuration under its key; lengths go in too, so that no two can run together."""
    digest = hashlib.blake2b(digest_size=16)
    for text in (key, *(part for entry in conf for part in entry)):
        raw = text.encode("utf-8", "surrogateescape")
        digest.update(len(raw).to_bytes(4, "big"))
        digest.update(raw)
    return digest.digest()


def token_of(digest: bytes, attempt: int = 0) -> int:
    """The 32-bit token for a digest; a higher attempt gives another one."""
    salt = attempt.to_bytes(4, "big")
    return int.from_bytes(hashlib.blake2b(digest, digest_size=4, salt=salt).digest(), "big")


class ConfStore:
    """The configurations in use, by token."""

    def __init__(
        self,
        make_chain: Callable[[str, Conf], Chain],
        *,
        expire: float = 3600.0,
        on_evict: Callable[[Chain], None] | None = None,
        hash_token: Callable[[bytes, int], int] = token_of,
    ) -> None:
        """Make an empty store.

        Args:
            make_chain: makes a (not yet built) chain of a key and a configuration.
            expire: the gateway's cache time in seconds (`APISIX_CONF_EXPIRE_TIME`).
            on_evict: told of each chain that is dropped.
            hash_token: digest and attempt to token.
        """
        self._make_chain = make_chain
        self._on_evict = on_evict
        self._hash_token = hash_token
        self.tick_seconds = expire / _TICKS
        """How often `tick` is to be called."""
        self.chains: dict[int, Chain] = {}
        """The chains by token, for the hot path; whoever uses one sets its `last_used` to `now`."""
        self._digests: dict[int, bytes] = {}
        self.now = 0

    def __len__(self) -> int:
        return len(self.chains)

    def __iter__(self) -> Iterator[Chain]:
        return iter(self.chains.values())

    def prepare(self, key: str, conf: Conf) -> tuple[int, Chain, bool]:
        """The token for a configuration, its chain, and whether it's new (and so has to be built)."""
        digest = conf_digest(key, conf)
        attempt = 0
        while True:
            token = self._hash_token(digest, attempt)
            present = self._digests.get(token)
            if present is None:
                chain = self._make_chain(key, conf)
                chain.last_used = self.now
                self.chains[token] = chain
                self._digests[token] = digest
                return token, chain, True
            if present == digest:
                chain = self.chains[token]
                chain.last_used = self.now
                return token, chain, False
            attempt += 1

    def get(self, token: int) -> Chain | None:
        """The chain of a token, `None` for an unknown one."""
        chain = self.chains.get(token)
        if chain is not None:
            chain.last_used = self.now
        return chain

    def tick(self) -> None:
        """Let time pass: drop what was last used more than twice the cache time ago."""
        self.now += 1
        oldest = self.now - 2 * _TICKS - 1
        for token in [token for token, chain in self.chains.items() if chain.last_used < oldest]:
            chain = self.chains.pop(token)
            del self._digests[token]
            if self._on_evict is not None:
                self._on_evict(chain)
