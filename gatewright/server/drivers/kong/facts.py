"""What the client's request is made of, as handlers get it: which calls ask for it, and what becomes of the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gatewright.errors import PluginError
from gatewright.gateways.kong.answers import captures_of, read_body_file
from gatewright.gateways.kong.log_phase import KEPT, PROTOCOL, from_kept, host_of
from gatewright.runtime.pdk import PdkError

__all__ = [
    "CHANGEABLE", "IN_FILE", "KEPT", "PROTOCOL", "REMADE", "UNCHANGING", "kept_value", "own_copy", "protocol_of",
    "remade",
]  # fmt: skip

UNCHANGING: Final = frozenset(
    (
        "kong.client.get_ip", "kong.client.get_forwarded_ip", "kong.client.get_port", "kong.client.get_forwarded_port",
        "kong.node.get_id", "kong.nginx.get_subsystem", "kong.request.get_scheme", "kong.request.get_host",
        "kong.request.get_port", "kong.request.get_forwarded_scheme", "kong.request.get_forwarded_host",
        "kong.request.get_forwarded_port", "kong.request.get_http_version", "kong.request.get_method",
        "kong.request.get_path", "kong.request.get_path_with_query", "kong.request.get_raw_query",
        "kong.request.get_query_arg", "kong.request.get_query", "kong.request.get_header", "kong.request.get_headers",
        "kong.request.get_raw_body", "kong.request.get_uri_captures",
    )
)  # fmt: skip
"""What the client's request is made of: asked for once in a phase, unless the handler changes the request."""

_CAPTURES: Final = "kong.request.get_uri_captures"
IN_FILE: Final = "kong.request.get_raw_body"
"""The method that gives nothing where nginx keeps the body in a file."""
REMADE: Final = frozenset((_CAPTURES, IN_FILE, "kong.service.response.get_raw_body"))
"""Methods whose values handlers get in one form, however they came; see `remade`."""
CHANGEABLE: Final = ("header", "query", "method", "body")
"""Words in the names of methods that change a request, and of those that then give something else."""
_TABLES: Final = (dict, list)


def own_copy(value: Any) -> Any:
    """What handlers do with a table is not for others to see."""
    if type(value) is list:
        return [own_copy(item) if type(item) in _TABLES else item for item in value]
    if type(value) is dict:
        return {name: own_copy(item) if type(item) in _TABLES else item for name, item in value.items()}
    return value


def kept_value(method: str, kept: Any, host: Any) -> str:
    """A value for the log phase.

    Args:
        method: a key of `KEPT`.
        kept: what Kong kept, if anything.
        host: the header's value, for a host that it has not kept.

    Raises:
        PdkError: Kong has not kept it.
    """
    if isinstance(kept, str):
        return from_kept(method, kept)
    if KEPT[method] == "host" and isinstance(host, str):
        return host_of(host)
    raise PdkError(f"{method}: Kong has not kept it for the phase log")


def protocol_of(route: Any, scheme: str, forwarded: Any) -> str | None:
    """The value of `PROTOCOL`.

    Args:
        route: what `kong.router.get_route` gives.
        scheme: what Kong kept.
        forwarded: the header `x-forwarded-proto`, where that is to be looked at.

    Raises:
        PdkError: it depends on whether the header is to be believed.
    """
    if not isinstance(route, Mapping):
        return None
    protocols: Sequence[Any] = route.get("protocols") or ()
    if len(protocols) == 1:
        return str(protocols[0])
    if scheme != "https" and forwarded is not None:
        raise PdkError(f"{PROTOCOL}: in the phase log nobody can say whether x-forwarded-proto is to be believed")
    return scheme


def remade(method: str, value: Any, file: Any) -> Any:
    """A body or the URI captures, from what came of the call.

    Args:
        method: what was called.
        value: what it gave.
        file: where nginx keeps the request's body, if its buffer was too small.

    Raises:
        PdkError: it can't be had.
    """
    if method == _CAPTURES:
        return captures_of(value)
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if method != IN_FILE or not isinstance(file, str) or not file:
        raise PdkError(f"{method}: Kong has no body to give")
    try:
        return read_body_file(file)
    except PluginError as error:
        raise PdkError(str(error)) from None
