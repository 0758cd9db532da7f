"""The configurations of all workers, and the tokens that they have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gatewright.runtime.confs import MOST_CONF_BYTES, TokenTable, conf_size, token_of
from gatewright.server.ipc import messages
from gatewright.server.supervisor.workers import Worker

__all__ = ["Registry"]

_DEATHS = 3
_KEEP_TICKS = 21  # longer than a worker keeps a chain, so that what a worker has is always known here


@dataclass(slots=True, eq=False)
class _StoredConf:
    digest: bytes
    conf: messages.Conf
    token: int = 0
    last_used: int = 0
    deaths: int = 0
    """Workers that ended while they built it."""

    @property
    def quarantined(self) -> bool:
        """It has ended too many workers to be built again."""
        return self.deaths >= _DEATHS


class Registry:
    """Gives tokens out and knows what each stands for. Configurations hold secrets: they are kept in memory only.

    A worker answers a gateway's PrepareConf only when the registry has given the token. So whenever a gateway presents
    a token, to whatever worker, the registry knows it.
    """

    def __init__(
        self,
        expire: float,
        hash_token: Callable[[bytes, int], int] = token_of,
        *,
        most: int = 20_000,
        on_evict: Callable[[int], None] = lambda _token: None,
    ) -> None:
        """Make an empty registry.

        Args:
            expire: the gateway's cache time, seconds.
            hash_token: digest and attempt to token.
            most: configurations at once; see `TokenTable` for those that go first.
            on_evict: told of the token of each that had to go.
        """
        self._table: TokenTable[_StoredConf] = TokenTable(
            expire=expire, keep_ticks=_KEEP_TICKS, hash_token=hash_token, most=most, most_bytes=MOST_CONF_BYTES,
            on_evict=lambda stored: on_evict(stored.token),
        )  # fmt: skip
        self.tick_seconds = self._table.tick_seconds
        self.tick = self._table.tick

    def __len__(self) -> int:
        return len(self._table)

    def register(self, worker: Worker, digest: bytes, conf: messages.Conf) -> None:
        """Tell a worker the token of a configuration, a new one if it has none."""
        token = self._table.find(digest)
        if token is None:
            stored = _StoredConf(digest, conf)
            token = stored.token = self._table.assign(digest, stored, conf_size(conf.key, conf.plugins))
        worker.send(messages.Assigned(digest, token, self._table.by_token[token].quarantined))

    def look_up(self, worker: Worker, token: int) -> None:
        """Tell a worker what a token stands for."""
        stored = self._table.get(token)
        if stored is None:
            worker.send(messages.Unknown(token))
        else:
            worker.send(messages.Known(token, stored.digest, stored.conf, stored.quarantined))

    def tell_all(self, worker: Worker, *, urgent: bool) -> None:
        """Tell a new worker all there is, for it to build before it serves; not what has ended a worker before.

        Args:
            worker: the new one.
            urgent: nobody serves meanwhile: it has to first, and to build then.
        """
        for token, stored in self._table.items():
            if not stored.deaths:
                worker.send(messages.Known(token, stored.digest, stored.conf, False))
        worker.send(messages.Preloaded(urgent))

    def forget(self, token: int) -> None:
        """The gateway no longer needs a configuration."""
        self._table.forget(token)

    def ended_a_worker(self, token: int) -> str:
        """A worker has ended while it built this configuration; gives its key, for the log."""
        stored = self._table.by_token.get(token)
        if stored is None:
            return ""
        stored.deaths += 1
        return stored.conf.key.partition(b"\0")[0].decode("utf-8", "backslashreplace")

    def built(self, token: int) -> None:
        """A configuration could be built: it wasn't what ended a worker."""
        stored = self._table.by_token.get(token)
        if stored is not None and not stored.quarantined:
            stored.deaths = 0

    def used(self, tokens: list[int]) -> None:
        """A worker has used these tokens."""
        for token in tokens:
            self._table.get(token)
