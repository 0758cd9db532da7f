"""Each does what its sibling in Python does (see `_plain_line`)."""

from typing import Any

EDITION: int

class EventParts:
    def __init__(self, home: Any, chain: Any, phase: str, connection: Any, ticket: int, strand: Any, /) -> None: ...

class Line:
    slot: int
    asked: int
    def data_received(self, data: bytes, /) -> None: ...
    def write(self, data: bytes, /) -> None: ...
    def clear_guard(self) -> bool: ...
