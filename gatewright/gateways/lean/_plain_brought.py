"""What a call of the lean path brings, in Python; see `calls`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["Brought"]


class Brought:
    """What a call brings, and who tells the rest."""

    __slots__ = ("_told", "fields", "id", "index", "note", "plan", "teller")

    note: Callable[[str], None]
    teller: Any

    def __init__(self, id: int, fields: list[bytes | None], /) -> None:
        self.index = self.index_of(fields)
        self.id = id
        self.plan = fields[0] or b""
        self.fields = fields
        self._told: dict[str, bytes | None] | None = None

    @staticmethod
    def index_of(fields: list[bytes | None]) -> Mapping[str, int]:
        """Where each thing is."""
        raise NotImplementedError

    def has_header(self, name: str) -> bool | None:
        """Whether there is a header of this name, in lower case."""
        return self.look_for(name)

    def header_values(self, name: str) -> Sequence[str | None] | None:
        """All values of one header."""
        return self.look_up(name)

    def look_for(self, name: str) -> bool | None:
        """As `has_header`, where it was not brought for itself."""
        raise NotImplementedError

    def look_up(self, name: str) -> Sequence[str | None] | None:
        """As `header_values`, where it was not brought for itself."""
        raise NotImplementedError
