"""Finding a header's name in a frame without decoding any.

A string on the wire is its length in four bytes and its text, so a name of nine letters begins with the byte 9. In text
that byte is next to never there (it's a control character, which HTTP forbids but for the tab), and one byte is what
`bytes.find` is fastest at: ten times as fast as at a name. At each place where it is, the whole name is compared.

Where that doesn't pay (lengths that are letters, or stand in each entry's table), all of the frame is looked through.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

__all__ = ["NOWHERE", "UNSURE", "find_name", "form_of", "forms_of", "has_alike"]

NOWHERE: Final = -1
UNSURE: Final = -2
"""There are several, or it is there in other letters, or it takes too long to tell."""

_FIRST_LETTER: Final = 32
_IN_EACH_TABLE: Final = 8
_CASE: Final = 0x20
_PLACES: Final = range(48)  # a peer that fills its text with tabs must not cost more than to decode all

_LOOKS_ALIKE: Final = bytes(
    code + 32 if 65 <= code <= 90 else code if 97 <= code <= 122 or 48 <= code <= 57 else 45 for code in range(256)
)
"""What servers that make variables of headers' names make of each byte: letters without case, and `-` of the rest."""


def form_of(name: str) -> bytes:
    """What names that look alike have in common."""
    return name.encode("utf-8", "surrogateescape").translate(_LOOKS_ALIKE)


@lru_cache(maxsize=512)
def forms_of(names: tuple[str, ...]) -> tuple[bytes, ...]:
    """That of each."""
    return tuple(form_of(name) for name in names)


@lru_cache(maxsize=512)
def _needle(name: str) -> tuple[int, int, int, bytes, bytes]:
    """What to look for.

    The byte that begins it (0: it doesn't pay), the bits that the first letter has in either case, the string's length,
    the string, and what all that look alike become.
    """
    raw = name.encode("utf-8", "surrogateescape")
    needle = len(raw).to_bytes(4, "little") + raw
    pays = 0 < len(raw) < _FIRST_LETTER and len(raw) != _IN_EACH_TABLE
    return len(raw) if pays else 0, raw[0] | _CASE if raw else 0, len(needle), needle, needle.translate(_LOOKS_ALIKE)


def find_name(frame: bytes, name: str) -> int:
    """Where the one string is that is this name (in lower case), be it a header's or not; `NOWHERE` or `UNSURE`."""
    size, letter, length, needle, _ = _needle(name)
    if not size:
        return _find_in_all(frame, needle)
    find = frame.find
    found = NOWHERE
    at = find(size)
    try:
        for _ in _PLACES:
            if at < 0:
                return found
            if frame[at + 4] | _CASE == letter:
                there = frame[at : at + length]
                if there == needle:
                    if found >= 0:
                        return UNSURE
                    found = at
                elif there.lower() == needle:
                    return UNSURE
            at = find(size, at + 1)
    except IndexError:  # the frame ends there
        return found
    return UNSURE


def _find_in_all(frame: bytes, needle: bytes) -> int:
    lowered, in_lower = frame.lower(), needle.lower()  # the length may be a letter, too
    at = lowered.find(in_lower)
    if at < 0:
        return NOWHERE
    if lowered.find(in_lower, at + 1) >= 0 or not frame.startswith(needle, at):
        return UNSURE
    return at


def has_alike(frame: bytes, names: Sequence[str]) -> bool:
    """Whether there may be a string that an upstream could take for one of these names: `X_User` for `x-user`."""
    alike = b""
    for name in names:
        size, _, length, _, form = _needle(name)
        if not size:
            alike = alike or frame.translate(_LOOKS_ALIKE)
            if form in alike:
                return True
            continue
        at = frame.find(size)
        for _ in _PLACES:
            if at < 0:
                break
            if frame[at : at + length].translate(_LOOKS_ALIKE) == form:
                return True
            at = frame.find(size, at + 1)
        else:
            return True
    return False
