"""What a shared cache may keep, for how long, and for whom: RFC 9111, as far as a plugin can follow it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

__all__ = [
    "HEURISTIC", "SAFE", "date_of", "directives", "has_body", "is_fresh_enough", "lifetime", "matches",
    "may_be_stale", "may_store", "seconds_of", "whole_number",
]  # fmt: skip

HEURISTIC: Final = frozenset((200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501))
"""Statuses that may be kept though nobody says for how long (RFC 9110, 15.1); 206 needs ranges, which are not kept."""
SAFE: Final = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "CONNECT"))
"""After all other methods what is kept of a path is no longer right, be they known or not (4.4)."""
_KNOWN: Final = HEURISTIC | {302, 303, 307, 400, 401, 402, 403, 406, 409, 422, 451, 500, 502, 503, 504}

_LONGEST: Final = 1 << 31
_MOST_DIGITS: Final = 10

Directives = Mapping[str, str]


def directives(values: Iterable[str]) -> dict[str, str]:
    """The directives of `Cache-Control`, by name in lower case; of one that is there twice, the first (4.2.1)."""
    found: dict[str, str] = {}
    for part in _split(",".join(values)):
        name, _, value = part.partition("=")
        name = name.strip().lower()
        if name and name not in found:
            found[name] = value.strip().strip('"')
    return found


def _split(text: str) -> list[str]:
    """The parts between commas that are in no quotes."""
    parts, quoted, begin = [], False, 0
    for at, letter in enumerate(text):
        if letter == '"':
            quoted = not quoted
        elif letter == "," and not quoted:
            parts.append(text[begin:at])
            begin = at + 1
    return [*parts, text[begin:]]


def seconds_of(said: Directives, name: str) -> int | None:
    """A directive's seconds; `None` if it isn't there, 0 if it can't be read: what is not clear is stale."""
    if name not in said:
        return None
    return whole_number(said[name]) or 0


def whole_number(text: str) -> int | None:
    """A header's number; `None` if it is none. One that is too large is as large as one can be (1.2.2)."""
    if not (text.isascii() and text.isdecimal()):
        return None
    return int(text) if len(text) < _MOST_DIGITS else _LONGEST


def date_of(text: str | None) -> float | None:
    """A date as seconds since 1970; `None` if there is none, or it can't be read."""
    if text is None:
        return None
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def may_store(status: int, said: Directives, *, authorized: bool, vary: Sequence[str], sets_cookie: bool) -> bool:
    """Whether a shared cache may keep an answer to a GET (section 3).

    Args:
        status: of the answer.
        said: its `Cache-Control`.
        authorized: the request had `Authorization`, or another credential.
        vary: the names in its `Vary`.
        sets_cookie: it has `Set-Cookie`: meant for one client, whatever else it says.
    """
    if status not in _KNOWN or "no-store" in said or "private" in said or "no-cache" in said or "*" in vary:
        return False
    return not sets_cookie and (not authorized or not {"public", "s-maxage", "must-revalidate"}.isdisjoint(said))


def lifetime(status: int, said: Directives, headers: Callable[[str], str | None], now: float, default: float) -> float:
    """For how many seconds an answer is fresh (4.2.1); 0 or less: it is not.

    Args:
        status: of the answer.
        said: its `Cache-Control`.
        headers: gives one of its headers.
        now: the time, in seconds since 1970.
        default: seconds where nobody says, for the statuses of which that may be assumed.
    """
    for name in ("s-maxage", "max-age"):
        seconds = seconds_of(said, name)
        if seconds is not None:
            return seconds
    expires = headers("expires")
    if expires is not None:
        until = date_of(expires)
        if until is None:
            return 0  # "0" and the like
        begins = date_of(headers("date"))
        return until - (begins if begins is not None else now)
    return default if status in HEURISTIC else 0


def may_be_stale(said: Directives) -> bool:
    """Whether an answer may be given when it is no longer fresh: by its own `Cache-Control` (4.2.4)."""
    return not {"must-revalidate", "proxy-revalidate", "s-maxage"} & said.keys()


def has_body(headers: Callable[[str], str | None]) -> bool:
    """Whether a request brings a body. Of a GET it is in no key, so its answer is for nobody else."""
    return headers("transfer-encoding") is not None or (headers("content-length") or "0").strip() != "0"


def is_fresh_enough(said: Directives, age: float, fresh: float, *, may_be_stale: bool) -> bool:
    """Whether a request takes an answer from the cache (5.2.1).

    Args:
        said: the request's `Cache-Control`.
        age: seconds since the answer was made.
        fresh: seconds for which it is fresh.
        may_be_stale: the answer itself allows that it is given later.
    """
    if "no-cache" in said:
        return False
    oldest = seconds_of(said, "max-age")
    if oldest is not None and age > oldest:
        return False
    return age + (seconds_of(said, "min-fresh") or 0) < fresh or (may_be_stale and _stale_is_fine(said, age - fresh))


def _stale_is_fine(said: Directives, stale: float) -> bool:
    if "max-stale" not in said:
        return False
    return not said["max-stale"] or stale <= (seconds_of(said, "max-stale") or 0)


def matches(condition: Callable[[str], str | None], headers: Callable[[str], str | None]) -> bool:
    """Whether the client has this answer already: a 304 will do (RFC 9110, 13.2.2).

    Args:
        condition: gives one of the request's headers.
        headers: gives one of the answer's.
    """
    tags = condition("if-none-match")
    if tags is not None:
        etag = headers("etag")
        if tags.strip() == "*":
            return True
        return etag is not None and _weak(etag) in {_weak(tag.strip()) for tag in tags.split(",")}
    since, changed = date_of(condition("if-modified-since")), date_of(headers("last-modified"))
    return since is not None and changed is not None and changed <= since


def _weak(tag: str) -> str:
    return tag.removeprefix("W/")
