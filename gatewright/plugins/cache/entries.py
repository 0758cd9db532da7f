"""Answers that are kept, and where: in this process's memory, or in Redis."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol
from weakref import WeakKeyDictionary

import msgspec

from gatewright.plugins._shared.expiring import ExpiringCache
from gatewright.plugins._shared.redis_server import RedisServer, ServerFailedError
from gatewright.plugins.cache.rules import Directives, directives

__all__ = ["Entry", "MemoryEntries", "RedisEntries", "Shelf", "Variants", "shared_entries"]

_MOST_ENTRIES: Final = 100_000


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """An answer.

    Attributes:
        status: as the upstream gave it.
        headers: likewise, but for those of the connection.
        body: likewise.
        made: when the upstream made it, in seconds since 1970.
        fresh: for how many seconds from then on it is fresh.
        stale_if_error: for how many seconds more it may be given while the upstream fails.
    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    made: float
    fresh: float
    stale_if_error: float = 0.0

    def header(self, name: str) -> str | None:
        """One of its headers."""
        return next((value for known, value in self.headers if known == name), None)

    def said(self) -> Directives:
        """Its `Cache-Control`."""
        return directives(value for name, value in self.headers if name == "cache-control")


class Variants(msgspec.Struct, frozen=True, array_like=True):
    """Of one address there are several answers.

    Attributes:
        names: which it is depends on these headers of the request.
        mark: stands in the keys of all of them: once this is forgotten, they are not found any more.
    """

    names: list[str]
    mark: str = ""


Kept = Entry | Variants
_encode = msgspec.msgpack.Encoder().encode
_ENTRY: Final = b"e"
_VARIANTS: Final = b"v"


def _packed(kept: Kept) -> bytes:
    return (_ENTRY if isinstance(kept, Entry) else _VARIANTS) + _encode(kept)


def _unpacked(packed: bytes) -> Kept | None:
    try:
        if packed[:1] == _ENTRY:
            return msgspec.msgpack.decode(packed[1:], type=Entry)
        return msgspec.msgpack.decode(packed[1:], type=Variants)
    except msgspec.MsgspecError:  # of another version's making, or somebody else's
        return None


class Shelf(Protocol):
    """Where answers are. What can't be had is not there: a cache that fails is a request that goes on."""

    async def get(self, key: str) -> Kept | None:
        """What is kept under a key."""

    async def put(self, key: str, kept: Kept, seconds: float) -> bool:
        """Keep something for some seconds; tells whether it was kept."""

    async def drop(self, key: str) -> None:
        """Forget it."""


class MemoryEntries:
    """In this process's memory; what was used longest ago goes once there is too much."""

    def __init__(self, most_bytes: int) -> None:
        """Begin empty."""
        self.most_bytes = most_bytes
        self._cache: ExpiringCache[str, Kept] = ExpiringCache(_MOST_ENTRIES, most_bytes=most_bytes, size_of=_size)

    async def get(self, key: str) -> Kept | None:
        """See `Shelf.get`."""
        return self._cache.get(key)

    async def put(self, key: str, kept: Kept, seconds: float) -> bool:
        """See `Shelf.put`."""
        self._cache.put(key, kept, seconds)
        return self._cache.get(key) is not None

    async def drop(self, key: str) -> None:
        """See `Shelf.drop`."""
        self._cache.drop(key)


def _size(kept: Kept) -> int:
    if isinstance(kept, Variants):
        return 250 + sum(map(len, kept.names))
    return 500 + len(kept.body) + sum(len(name) + len(value) + 100 for name, value in kept.headers)


_memories: WeakKeyDictionary[asyncio.AbstractEventLoop, MemoryEntries] = WeakKeyDictionary()
"""One for each loop, so that what is kept survives a configuration that is changed."""


def shared_entries(most_bytes: int) -> MemoryEntries:
    """The running loop's; as large as the first who asked wanted it."""
    loop = asyncio.get_running_loop()
    if loop not in _memories:
        _memories[loop] = MemoryEntries(most_bytes)
    return _memories[loop]


class RedisEntries:
    """In Redis, for all workers and runners."""

    def __init__(self, server: RedisServer) -> None:
        """Make it.

        Args:
            server: where answers are kept.
        """
        self._server = server

    async def get(self, key: str) -> Kept | None:
        """See `Shelf.get`."""
        try:
            packed = await self._server.ask(lambda client: client.get(key))
        except ServerFailedError:
            return None
        return _unpacked(packed) if isinstance(packed, bytes) else None

    async def put(self, key: str, kept: Kept, seconds: float) -> bool:
        """See `Shelf.put`."""
        packed, millis = _packed(kept), max(int(seconds * 1000), 1)
        try:
            await self._server.ask(lambda client: client.set(key, packed, px=millis))
        except ServerFailedError:
            return False
        return True

    async def drop(self, key: str) -> None:
        """See `Shelf.drop`."""
        try:
            await self._server.ask(lambda client: client.delete(key))
        except ServerFailedError:
            return
