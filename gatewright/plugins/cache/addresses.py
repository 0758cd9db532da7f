"""What an answer may depend on, though no `Vary` says so: otherwise who sends it decides what others get."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import unquote_plus

from gatewright import Headers
from gatewright.plugins._shared.keys import CONSUMER

__all__ = ["arguments_of", "claims_of", "is_authorized"]

_CLAIMS: Final = (
    "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-forwarded-scheme", "x-forwarded-ssl",
    "x-forwarded-prefix", "x-forwarded-server", "x-host", "x-original-host", "x-original-url", "x-rewrite-url",
    "x-http-method-override", "x-http-method", "x-method-override",
)  # fmt: skip
"""Headers that many frameworks take for the address, or the method, that was asked for."""
_FORWARDED: Final = re.compile(r"(?i)\b(?:host|proto)\s*=[^;,]*")
_OF_GATEWAYS: Final = ("authorization", "x-consumer-username", "x-credential-identifier")
"""Who asks: as clients say, and as APISIX and Kong tell the upstream once they have found out."""

Pair = tuple[str, str]


def arguments_of(sent: str, seen: Iterable[Pair], ignored: frozenset[str]) -> tuple[list[Pair], list[Pair]]:
    """A query's arguments, in an order of their names, but for those that make no difference.

    Args:
        sent: the query as it was sent. Upstreams may read more, or something else, in it than gateways do.
        seen: the arguments that plugins see, and may have changed.
        ignored: names of those that make no difference.
    """
    pieces = [(unquote_plus(name), piece) for piece in sent.split("&") for name in [piece.partition("=")[0]]]
    return _by_name(pieces, ignored), _by_name(seen, ignored)


def _by_name(pairs: Iterable[Pair], ignored: frozenset[str]) -> list[Pair]:
    # Of one name the order stays: some upstreams take the first, others the last. And for some, `;` divides, too.
    kept = (pair for pair in pairs if pair[0] not in ignored or ";" in unquote_plus(pair[1]))
    return sorted(kept, key=lambda pair: pair[0])


def claims_of(headers: Headers) -> list[Any]:
    """What a request says of its own address, beside its target and `Host`."""
    claims: list[Any] = [(name, headers.get_all(name)) for name in _CLAIMS if name in headers]
    if "forwarded" in headers:  # who it is for makes no difference
        claims.append(_FORWARDED.findall(", ".join(headers.get_all("forwarded"))))
    return claims


def is_authorized(headers: Headers, ctx: Mapping[str, Any]) -> bool:
    """Whether it is known who asks, so that the answer may be for nobody else (RFC 9111, 3.5).

    A plugin before may have taken the credential out of the request; it leaves whose it was in `ctx`.
    """
    return CONSUMER in ctx or any(name in headers for name in _OF_GATEWAYS)
