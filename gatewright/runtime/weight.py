"""How much a configuration becomes when it is read, told from its text: what is too much is refused unread.

A list in a list takes two bytes of JSON and sixty of memory, and whatever a configuration becomes stays for as long as
the gateway uses it, in each worker. Real ones have some hundred values; etcd, where APISIX's come from, takes 1.5 MiB
at once.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["MOST_TEXT", "MOST_VALUES", "expanded_size", "too_heavy"]

MOST_TEXT: Final = 4 << 20
"""Bytes, or characters, of one plugin's configuration."""
MOST_VALUES: Final = 100_000
_VALUE_BYTES: Final = 64
_BEFORE_VALUES: Final = (",", "[", "{")
_strings: Final = re.compile(r'"(?:[^"\\]+|\\.)*+"?', re.DOTALL)


def expanded_size(text: str | bytes) -> int:
    """About how many bytes a configuration takes up in memory; one that's too heavy is not read."""
    return len(text) + _VALUE_BYTES * min(_count(text), MOST_VALUES)


def too_heavy(text: str) -> str:
    """What is too much of a configuration; nothing if it may be read."""
    if len(text) > MOST_TEXT:
        return f"it has {len(text)} characters, {MOST_TEXT} are the most"
    if _count(text) > MOST_VALUES and text.lstrip()[:1] in {"{", "["}:
        values = _count(_strings.sub("", text))
        if values > MOST_VALUES:
            return f"it has about {values} values, {MOST_VALUES} are the most"
    return ""


def _count(text: str | bytes) -> int:
    if isinstance(text, bytes):
        return sum(text.count(mark.encode()) for mark in _BEFORE_VALUES)
    return sum(text.count(mark) for mark in _BEFORE_VALUES)
