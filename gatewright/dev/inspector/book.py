"""The records that are kept: the last ones, within bounds, packed; and whoever wants to be told of new ones."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from gatewright.dev.inspector.records import as_line, summary_of

__all__ = ["MOST_CALLS", "Book"]

MOST_CALLS: Final = 10_000
_MOST_BYTES: Final = 1 << 26
_MOST_LEAVING: Final = 1_000
_MOST_LEAVING_BYTES: Final = 1 << 22
"""Those that were dropped last can still be looked at: where calls come fast, the oldest is gone once it was chosen."""
_MOST_UNTOLD: Final = 2_000
"""Summaries that may wait for one reader; one that is further behind begins anew."""


class Book:
    """The last calls, by number.

    Attributes:
        dropped: how many there were that are no longer kept.
    """

    def __init__(self, *, most: int = MOST_CALLS, most_bytes: int = _MOST_BYTES) -> None:
        """Make an empty one.

        Args:
            most: how many records are kept.
            most_bytes: how large all may be together, packed.
        """
        self._most, self._most_bytes = most, most_bytes
        self._packed: OrderedDict[int, bytes] = OrderedDict()
        self._summaries: dict[int, dict[str, Any]] = {}
        self._bytes = 0
        self._leaving: OrderedDict[int, bytes] = OrderedDict()
        self._leaving_bytes = 0
        self._listeners: set[Listener] = set()
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._packed)

    def put(self, record: dict[str, Any]) -> None:
        """Keep a record, or a newer state of one."""
        number = record["id"]
        packed = zlib.compress(as_line(record).encode(), 1)
        if number in self._leaving:  # told late
            self._leave(number, packed)
            return
        self._bytes += len(packed) - len(self._packed.get(number, b""))
        self._packed[number] = packed
        summary = self._summaries[number] = summary_of(record)
        while len(self._packed) > self._most or (self._bytes > self._most_bytes and len(self._packed) > 1):
            oldest, gone = self._packed.popitem(last=False)
            del self._summaries[oldest]
            self._bytes -= len(gone)
            self._leave(oldest, gone)
            self.dropped += 1
            for listener in self._listeners:
                listener.forget(oldest)
        for listener in self._listeners:
            listener.tell(summary)

    def _leave(self, number: int, packed: bytes) -> None:
        """Keep a record for a while, though it's in no list any more."""
        self._leaving_bytes += len(packed) - len(self._leaving.get(number, b""))
        self._leaving[number] = packed
        while len(self._leaving) > _MOST_LEAVING or self._leaving_bytes > _MOST_LEAVING_BYTES:
            _, gone = self._leaving.popitem(last=False)
            self._leaving_bytes -= len(gone)

    def get(self, number: int) -> dict[str, Any] | None:
        """A record with its secrets; `None` if it isn't kept."""
        packed = self._packed.get(number) or self._leaving.get(number)
        if packed is None:
            return None
        record: dict[str, Any] = json.loads(zlib.decompress(packed))
        return record

    def clear(self) -> None:
        """Forget all."""
        self._packed.clear()
        self._summaries.clear()
        self._leaving.clear()
        self._bytes = self._leaving_bytes = 0
        for listener in self._listeners:
            listener.begin_anew()

    def summaries(self) -> list[dict[str, Any]]:
        """What a list shows, the oldest first."""
        return list(self._summaries.values())

    def wake(self) -> None:
        """Let everybody look at what else has changed."""
        for listener in self._listeners:
            listener.wake()

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        """Be told of new records."""
        listener = Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)


class Listener:
    """Somebody who is told of new records."""

    def __init__(self) -> None:
        self._untold: dict[int, dict[str, Any]] = {}
        self._gone: list[int] = []
        self._anew = False
        self._wake = asyncio.Event()

    def tell(self, summary: dict[str, Any]) -> None:
        """There is a new record, or a newer state of one."""
        self._untold[summary["id"]] = summary
        if len(self._untold) > _MOST_UNTOLD:
            self.begin_anew()
        self._wake.set()

    def forget(self, number: int) -> None:
        """A record is no longer kept."""
        self._untold.pop(number, None)
        self._gone.append(number)
        if len(self._gone) > _MOST_UNTOLD:
            self.begin_anew()

    def begin_anew(self) -> None:
        """What it knows is no longer so."""
        self._untold.clear()
        self._gone.clear()
        self._anew = True
        self._wake.set()

    def wake(self) -> None:
        """Something else is new."""
        self._wake.set()

    async def next(self, timeout: float) -> tuple[bool, list[dict[str, Any]], list[int]]:
        """What is new: whether to begin anew, the summaries, and numbers of what is no longer kept.

        Nothing of these after `timeout` seconds without.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            return False, [], []
        self._wake.clear()
        untold, self._untold = list(self._untold.values()), {}
        gone, self._gone = self._gone, []
        anew, self._anew = self._anew, False
        return anew, untold, gone
