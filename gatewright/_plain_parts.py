"""What a handler touches of every call, in Python; see `parts`."""

from __future__ import annotations

from bisect import bisect_left as bisect
from collections.abc import Sequence
from typing import Any, Self

from gatewright.datastructures import Change, Finder, Headers, Query

__all__ = ["CallParts", "Lookup", "Tally", "View"]


class CallParts:
    """What a call is made of that every call needs. The rest has class-level defaults in `Call`."""

    source: Any
    asker: Any = None
    route: str = ""
    path: str | None = None
    body: bytes | None = None
    seen_headers: Headers | None = None
    seen_query: Query | None = None
    seen_response_headers: Headers | None = None
    asks: bool = False
    warning: str = ""
    kept_ctx: dict[str, Any] | None = None
    consumer_change: str | None = None

    def __init__(self, source: Any, conf_token: int) -> None:
        self.source = source
        self.conf_token = conf_token

    def header_changes(self) -> tuple[tuple[str, Change], ...] | None:
        """Changes of request headers, if nothing else is changed; otherwise `None`."""
        query, response_headers = self.seen_query, self.seen_response_headers
        if (
            self.path is not None
            or self.body is not None
            or (query is not None and query.changes)
            or (response_headers is not None and response_headers.changes)
        ):
            return None
        return tuple(self.seen_headers.changes.items()) if self.seen_headers is not None else ()


class View:
    """What a plugin sees of a call."""

    __slots__ = ("_call",)

    def __init__(self, call: Any) -> None:
        self._call = call

    @property
    def headers(self) -> Headers:
        """The request's headers. Changes reach the upstream."""
        seen: Headers | None = self._call.seen_headers
        headers: Headers = self._call.headers if seen is None else seen
        return headers


class Lookup:
    """Headers of a call. What C has quick ways for, Python does as for all headers."""

    _source: Any
    _finder: Finder | None
    changes: dict[str, Change]

    @classmethod
    def of(cls, source: Any, finder: Finder | None, most_finds: int, /) -> Self:
        """Headers of a source.

        Args:
            source: knows the headers.
            finder: finds what was cut off.
            most_finds: so many are looked up one by one, before all are decoded.
        """
        self = cls.__new__(cls)
        self._source = source
        self._finder = finder
        self.changes = {}
        return self


class Tally:
    """How long runs took."""

    __slots__ = ("_bounds", "counts", "seconds")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Begin with none.

        Args:
            bounds: of the buckets, in seconds, ascending; one more bucket has none.
        """
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Runs by bucket, not cumulative."""
        self.seconds = 0.0
        """Their sum."""

    def note(self, seconds: float) -> None:
        """Count one that took so many seconds."""
        self.counts[bisect(self._bounds, seconds)] += 1
        self.seconds += seconds

    def add(self, other: Tally) -> None:
        """Add another one's counts."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.seconds += other.seconds
