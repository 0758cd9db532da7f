"""What a field of a configuration means, said in the model: Kong's schema and the reference are made of that."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["field"]


def field(meaning: str, *, unit: str = "", **limits: Any) -> msgspec.Meta:
    """What is to be said of a field, for `Annotated`.

    Args:
        meaning: what the field does, in one or two sentences of 10 to 500 characters (Kong's limits).
        unit: what a number counts: `seconds`, `bytes`, `requests`, ...
        limits: what values are right, in `msgspec.Meta`'s words: `ge`, `gt`, `le`, `min_length`, `pattern`, ...
    """
    text = f"{meaning.rstrip('.')} ({unit})." if unit and unit not in meaning else meaning
    return msgspec.Meta(description=text, extra={"unit": unit} if unit else None, **limits)
