"""The configurations of all workers, and the tokens that they have."""

from __future__ import annotations

from dataclasses import dataclass

from gatewright.runtime.confs import TokenTable
from gatewright.server import messages
from gatewright.server.workers import Worker

__all__ = ["Registry"]

_KEEP_TICKS = 20  # longer than a worker keeps a chain, so that what a worker has is always known here


@dataclass(slots=True, eq=False)
class _StoredConf:
    digest: bytes
    conf: messages.Conf
    last_used: int = 0


class Registry:
    """Gives tokens out and knows what each stands for. Configurations hold secrets: they are kept in memory only.

    A worker answers a gateway's PrepareConf only when the registry has given the token. So whenever a gateway presents
    a token, to whatever worker, the registry knows it.
    """

    def __init__(self, expire: float) -> None:
        """Make an empty registry.

        Args:
            expire: the gateway's cache time, seconds.
        """
        self._table: TokenTable[_StoredConf] = TokenTable(expire=expire, keep_ticks=_KEEP_TICKS)
        self.tick_seconds = self._table.tick_seconds
        self.tick = self._table.tick

    def __len__(self) -> int:
        return len(self._table)

    def register(self, worker: Worker, digest: bytes, conf: messages.Conf) -> None:
        """Tell a worker the token of a configuration, a new one if it has none."""
        token = self._table.find(digest)
        if token is None:
            token = self._table.assign(digest, _StoredConf(digest, conf))
        worker.send(messages.Assigned(digest, token))

    def look_up(self, worker: Worker, token: int) -> None:
        """Tell a worker what a token stands for."""
        stored = self._table.get(token)
        if stored is None:
            worker.send(messages.Unknown(token))
        else:
            worker.send(messages.Known(token, stored.digest, stored.conf))

    def tell_all(self, worker: Worker) -> None:
        """Tell a new worker all there is."""
        for token, stored in self._table.items():
            worker.send(messages.Known(token, stored.digest, stored.conf))
        worker.send(messages.Preloaded())

    def used(self, tokens: list[int]) -> None:
        """A worker has used these tokens."""
        for token in tokens:
            self._table.get(token)
