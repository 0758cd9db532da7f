"""What the versions of APISIX do differently (see `gatewright.gateways.apisix.versions`, which tells them apart)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["BEHAVIOURS", "Behaviour"]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a version behaves.

    Attributes:
        version: which one it is.
        most_headers: so many of a request's headers are read at most; 0 for all.
        keeps_query: a new path alone keeps the query, byte for byte.
        reads_unsized_bodies: the body of an HTTP/2 request without Content-Length is read.
        variables: those that its nginx.conf defines and older ones don't.
    """

    version: str = "3.9"
    most_headers: int = 0
    keeps_query: bool = False
    reads_unsized_bodies: bool = False
    variables: tuple[str, ...] = ()


BEHAVIOURS: Final = {
    each.version: each
    for each in (
        Behaviour(),
        Behaviour("3.10", most_headers=100),
        Behaviour("3.16", most_headers=100, keeps_query=True),
        Behaviour(
            "3.18", most_headers=100, keeps_query=True, reads_unsized_bodies=True, variables=("rate_limiting_info",)
        ),
    )
}
"""By version: each holds until the next one in the list."""
