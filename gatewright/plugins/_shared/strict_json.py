"""JSON as RFC 8259 has it, and no two readings of it: each name once, finite numbers."""

from __future__ import annotations

import json
from math import isfinite
from typing import Any, Final

__all__ = ["STRICT_JSON"]


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {json.dumps(twice)[:100]} is there twice")
    return value


def _number(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError("a number is too large")
    return value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not a JSON value")


STRICT_JSON: Final = json.JSONDecoder(object_pairs_hook=_each_name_once, parse_float=_number, parse_constant=_no_number)
"""Raises `ValueError` that says what it won't read, and `RecursionError` where it's too deep."""
