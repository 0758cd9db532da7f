"""Blacking secrets out: by the name of a field, and by their look in text. Logs, status and traces all use this.

The text is the client's as often as not, so the time that it takes must not depend on what it says. Hence a scanner
that only goes forward: a regular expression without nested repetition finds the next word that could matter,
and what belongs to it is consumed; nothing is looked at twice.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Any, Final

from gatewright.errors import words_of

__all__ = ["REDACTED", "redact", "redact_error", "redact_fields"]

REDACTED: Final = "[redacted]"

_NAME: Final = (
    r"pass(?:word|wd|phrase)|pwd|secret|credential|api[-_]?key|access[-_]?key|private[-_]?key|authorization|cookie"
)
_SECRET_NAME: Final = re.compile(rf"(?i){_NAME}|(?:^|[-_])token$")
_SECRET_WORD: Final = re.compile(rf"(?i){_NAME}|token$")
# First letters in both cases, so that the search can skip all other characters at once.
_HINT: Final = re.compile(
    r"[Pp](?i:ass(?:word|wd|phrase)|wd|rivate[-_]?key)|[Ss](?i:ecret)|[Cc](?i:redential|ookie)"
    r"|[Aa](?i:pi[-_]?key|ccess[-_]?key|uthorization)|[Tt](?i:oken)|[Bb](?i:earer|asic)|://"
    r"|eyJ|-----BEGIN|gh[oprsu]_|github_pat_|glpat-|xox[abeprs]-|[rs]k_live_|sk-"
)
_REST_OF_WORD: Final = re.compile(r"[\w-]*")
_SEPARATOR: Final = re.compile(r"[\"']?\s*([:=,])\s*")
_QUOTE: Final = re.compile(r"[bru]?([\"'])", re.IGNORECASE)
_OPENING: Final = re.compile(r"[\[({]\s*")
_BETWEEN: Final = re.compile(r"\s*,\s*")
_PLAIN: Final = re.compile(r"[^\s,;&}\"'\[\]]+")
_SCHEME: Final = re.compile(r"(?:[A-Za-z]\w*\s+)?[^\s\"',;]+(?:\"[^\"]*\")?")
_BEARER: Final = re.compile(r"\s+[\w.~+/=-]{8,}")
_BASIC: Final = re.compile(r"\s+([A-Za-z0-9+/]{4,1366}={0,2})")
_TOKEN: Final = re.compile(r"[\w-]{16,}")
"""What follows the beginning by which tokens of some makers are known."""
_JWT: Final = re.compile(r"[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*){1,3}")
_PRIVATE_KEY: Final = re.compile(r" (?:[A-Z0-9]+ ){0,3}PRIVATE KEY-----")
_END_OF_KEY: Final = "-----END"
_USERINFO: Final = re.compile(r"[^/\s:@]*:([^@/\s]+)@")
# More of the same header: `cookie: a=1; b=2`, `authorization: Digest username="x", response="y"`.
_MORE_COOKIES: Final = re.compile(r";\s*[\w.-]+=[^\s,;&}\"']*")
_MORE_PARAMETERS: Final = re.compile(r",\s*[\w-]+=(?:\"[^\"]*\"|[^\s,;\"']+)")
_LONGEST: Final = 1 << 16
"""Characters of one text: what is longer, a client's path of megabytes say, is cut."""
_DEEPEST: Final = 8
_LONGEST_MAPPING: Final = 1000


def redact(text: str) -> str:
    """The text with what looks like a secret blacked out; in time linear in its length, whatever it says."""
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}... ({len(text) - _LONGEST} characters more)"
    done = at = 0
    out: list[str] = []
    while (found := _HINT.search(text, at)) is not None:
        begin, after = found.span()
        word = found[0].lower()
        if word == "://":
            span = _userinfo(text, after)
        elif word == "bearer":
            span = _bearer(text, begin, after)
        elif word == "basic":
            span = _basic(text, after)
        elif found[0] == "-----BEGIN":
            span = _private_key(text, after)
        elif found[0] == "eyJ" or found[0][-1] in "_-":
            span = _token(text, begin, after, _JWT if found[0] == "eyJ" else _TOKEN)
        else:
            after = _end_of(_REST_OF_WORD, text, after)
            span = _value(text, begin, after)
        at = after
        for start, end in span:
            out += text[done:start], REDACTED
            done = at = max(end, after)
    if not out:
        return text
    out.append(text[done:])
    return "".join(out)


def redact_error(error: BaseException) -> str:
    """An exception's type and text, without secrets."""
    return redact(words_of(error))


def redact_fields(value: Any, name: str = "", depth: int = 0) -> Any:
    """The same with secrets blacked out: values of fields that are named so, and text that looks so.

    Mappings, lists and pairs of name and value are looked into, to a depth that no honest log line has.
    """
    if name and _SECRET_NAME.search(name):
        return REDACTED
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, bytes | bytearray):
        return redact(value.decode("utf-8", "backslashreplace"))
    if isinstance(value, Mapping | list | tuple | set | frozenset) and depth >= _DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        return {
            key: redact_fields(item, str(key), depth + 1)
            for (key, item), _ in zip(value.items(), range(_LONGEST_MAPPING), strict=False)
        }
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        return value[0], redact_fields(value[1], value[0], depth + 1)
    if isinstance(value, list | tuple | set | frozenset):
        return [redact_fields(item, "", depth + 1) for item, _ in zip(value, range(_LONGEST_MAPPING), strict=False)]
    return value


# --- what belongs to a word: spans to black out

_Spans = list[tuple[int, int]]


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def _userinfo(text: str, at: int) -> _Spans:
    """The password in `://user:password@host`."""
    found = _USERINFO.match(text, at)
    return [found.span(1)] if found else []


def _bearer(text: str, begin: int, at: int) -> _Spans:
    """A token after `bearer`, standing alone."""
    if begin and (text[begin - 1].isalnum() or text[begin - 1] == "_"):
        return []
    found = _BEARER.match(text, at)
    return [(at + len(found[0]) - len(found[0].lstrip()), found.end())] if found else []


def _basic(text: str, at: int) -> _Spans:
    """Name and password after `basic`; other words may follow it, too."""
    found = _BASIC.match(text, at)
    if found is None:
        return []
    try:
        is_login = b":" in b64decode(found[1] + "=" * (-len(found[1]) % 4))
    except ValueError:
        return []
    return [found.span(1)] if is_login else []


def _token(text: str, begin: int, at: int, rest: re.Pattern[str]) -> _Spans:
    """A token that is known by its beginning."""
    if begin and (text[begin - 1].isalnum() or text[begin - 1] in "_-"):
        return []
    found = rest.match(text, at)
    return [(begin, found.end())] if found else []


def _private_key(text: str, at: int) -> _Spans:
    """What a private key in PEM holds."""
    found = _PRIVATE_KEY.match(text, at)
    if found is None:
        return []
    end = text.find(_END_OF_KEY, found.end())
    return [(found.end(), end if end >= 0 else len(text))]


def _value(text: str, begin: int, at: int) -> _Spans:
    """What is assigned to a name that ends at `at`, in whatever notation."""
    word = text[begin:at].lower()
    if not _SECRET_WORD.search(word):
        return []
    separator = _SEPARATOR.match(text, at)
    if separator is None:
        return []
    at = separator.end()
    if text.startswith(REDACTED, at):
        return []
    quote = _QUOTE.match(text, at)
    if quote is not None:
        return [_quoted(text, quote.end(), quote[1])]
    opening = _OPENING.match(text, at)
    if opening is not None:
        return _in_brackets(text, opening.end())
    header = word == "authorization"
    if separator[1] == "," and not header:
        return []  # a word in a list or a sentence
    end = _end_of(_SCHEME if header else _PLAIN, text, at)
    if end == at:
        return []
    more = _MORE_COOKIES if "cookie" in word else _MORE_PARAMETERS if header else None
    while more is not None and (found := more.match(text, end)) is not None:
        end = found.end()
    return [(at, end)]


def _quoted(text: str, at: int, quote: str) -> tuple[int, int]:
    """From behind an opening quote to the closing one; if there is none, to the line's end."""
    end = at
    while True:
        end = text.find(quote, end)
        if end < 0:
            line = text.find("\n", at)
            return at, len(text) if line < 0 else line
        backslashes = end
        while backslashes > at and text[backslashes - 1] == "\\":
            backslashes -= 1
        if (end - backslashes) % 2 == 0:
            return at, end
        end += 1


def _in_brackets(text: str, at: int) -> _Spans:
    """Each quoted value of a list."""
    spans = []
    while (quote := _QUOTE.match(text, at)) is not None:
        span = _quoted(text, quote.end(), quote[1])
        spans.append(span)
        at = _end_of(_BETWEEN, text, span[1] + 1)
    return spans
