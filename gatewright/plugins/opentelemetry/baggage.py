"""Baggage for the upstream (W3C Baggage): what the caller sends goes on as it came, with entries of one's own behind.

OpenTelemetry's own propagator reads the entries and writes them anew, with spaces as `+`, which others than Python take
for a plus, and with what follows a `;` (an entry's properties) as a part of its value; and each entry that it can't
read is a line in the log that a client has chosen to be there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote

__all__ = ["HEADER", "OwnEntries", "is_key"]

HEADER: Final = "baggage"
_KEY: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def is_key(text: str) -> bool:
    """Whether an entry may have this name."""
    return _KEY.fullmatch(text) is not None


class OwnEntries:
    """Entries that are added, and that no caller can have set before."""

    def __init__(self, entries: Mapping[str, str]) -> None:
        """Take the entries: their names, and values of any text."""
        self._names = frozenset(entries)
        self._text = ",".join(
            f"{name}={quote(value, safe='-._~', errors='surrogateescape')}" for name, value in entries.items()
        )

    def behind(self, lines: Sequence[str]) -> str | None:
        """The header's value, or `None` if there is nothing to say.

        Args:
            lines: the values that the caller's header has.
        """
        told = ",".join(lines)
        if self._names and told:
            members = [each for each in told.split(",") if each.partition("=")[0].strip() not in self._names]
            told = ",".join(members).strip(" ,")
        return ",".join(part for part in (told, self._text) if part) or None
