"""Each does what its sibling in Python does (see `_plain_parts`)."""

from collections.abc import Sequence
from typing import Any, Self

from gatewright.datastructures import Change, Finder, Headers, Query

EDITION: int

class CallParts:
    source: Any
    conf_token: int
    asker: Any
    route: str
    path: str | None
    body: bytes | None
    seen_headers: Headers | None
    seen_query: Query | None
    seen_response_headers: Headers | None
    asks: bool
    warning: str
    kept_ctx: dict[str, Any] | None
    consumer_change: str | None
    def __init__(self, source: Any, conf_token: int) -> None: ...
    def header_changes(self) -> tuple[tuple[str, Change], ...] | None: ...

class View:
    _call: Any
    def __init__(self, call: Any) -> None: ...
    @property
    def headers(self) -> Headers: ...

class Lookup:
    changes: dict[str, Change]
    @classmethod
    def of(cls, source: Any, finder: Finder | None, most_finds: int, /) -> Self: ...

class Tally:
    @property
    def counts(self) -> list[int]: ...
    @property
    def seconds(self) -> float: ...
    def __init__(self, bounds: Sequence[float], /) -> None: ...
    def note(self, seconds: float, /) -> None: ...
    def add(self, other: Tally, /) -> None: ...
