"""The PDK for one request: who may call what and when, and what arguments may be."""

from __future__ import annotations

import inspect
import ipaddress
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from gatewright.dev.kong.declarative import Declared
from gatewright.dev.kong.exchange import Exchange
from gatewright.dev.kong.values import LuaError
from gatewright.dev.nginx import header_value, parse_args

__all__ = [
    "ACCESS", "ANSWERED", "AUTHENTICATED", "BEFORE_CONTENT", "CHANGE_REQUEST", "FUNCTIONS", "NEVER", "REQUEST", "Pdk",
    "function", "header_values", "headers_of", "is_header", "limit", "query_table", "string", "whole",
]  # fmt: skip

log = logging.getLogger("gatewright.dev.kong")

REQUEST: Final = ("rewrite", "access", "response", "log")
BEFORE_CONTENT: Final = ("rewrite", "access", "response")
CHANGE_REQUEST: Final = ("rewrite", "access")
AUTHENTICATED: Final = ("access", "response", "log")
ANSWERED: Final = ("response", "log")
ACCESS: Final = ("access",)
NEVER: Final = ("certificate", "preread", "balancer")


class _Function:
    """A PDK function, the phases that it may be called in (`None`: any), and whether the log phase's timer can."""

    def __init__(self, run: Callable[..., Any], phases: tuple[str, ...] | None, *, later: bool) -> None:
        self.run = run
        self.phases = phases
        self.later = later
        parameters = list(inspect.signature(run).parameters.values())[1:]
        self.most = None if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(parameters)

    def __call__(self, pdk: Pdk, args: Sequence[Any]) -> Any:
        if self.most is not None:  # Lua takes too few arguments for nil, and doesn't mind too many
            args = [*args, *[None] * self.most][: self.most]
        return self.run(pdk, *args)


FUNCTIONS: dict[str, _Function] = {}
"""By name."""


def function(
    name: str, phases: tuple[str, ...] | None = None, *, later: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a PDK function under its name without `kong.`; see `_Function`."""

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        FUNCTIONS[f"kong.{name}"] = _Function(run, phases, later=later)
        return run

    return register


class Pdk:
    """Runs PDK functions for a request (see `rpc.PdkFunction`)."""

    def __init__(
        self,
        exchange: Exchange,
        declared: Declared,
        *,
        trusted: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = (),
        body_file: str = "",
        counts: dict[str, int] | None = None,
    ) -> None:
        """Make one.

        Args:
            exchange: the request.
            declared: what there is besides it.
            trusted: `trusted_ips`, whose forwarding headers are believed.
            body_file: where nginx keeps the body, if it's longer than its buffer.
            counts: connections and requests of the gateway, by their names in `kong.nginx.get_statistics`.
        """
        self.exchange = exchange
        self.declared = declared
        self.body_file = body_file
        self.counts = counts or {}
        self._trusted = trusted

    def __call__(self, method: str, args: Sequence[Any]) -> Any:
        """Run a function.

        Raises:
            Exit: the request is answered.
            LuaError: Kong's code would raise an error.
        """
        function = FUNCTIONS.get(method)
        if function is None:
            log.error("could not find pdk method: %s", method)
            return None
        phase = self.exchange.phase
        if function.phases is not None and phase not in function.phases:
            only = ", ".join(function.phases)
            raise LuaError(f"{method}: function cannot be called in {phase} phase (only in: {only})")
        if self.exchange.later and not function.later:
            raise LuaError(f"{method}: API disabled in the context of ngx.timer (the log phase runs in one)")
        return function(self, args)

    def is_trusted(self, address: str) -> bool:
        """Whether forwarding headers from an address are believed; not from what is none."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._trusted)

    def forwarded(self, name: str) -> str | None:
        """A forwarding header of a client that is trusted."""
        return self.exchange.headers.get(name) if self.is_trusted(self.exchange.request.client_ip) else None


def string(value: Any, what: str) -> str:
    """An argument that has to be text.

    Raises:
        LuaError: it is something else.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if not isinstance(value, str):
        raise LuaError(f"{what} must be a string")
    return value


def whole(value: Any, what: str, low: int, high: int) -> int:
    """An argument that has to be a whole number within limits.

    Raises:
        LuaError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise LuaError(f"{what} must be an integer")
    if not low <= value <= high:
        raise LuaError(f"{what} must be an integer between {low} and {high}: given {value}")
    return int(value)


def limit(value: Any, what: str) -> int:
    """How many items are asked for: 1 to 1000, by default 100.

    Raises:
        LuaError: it is something else.
    """
    if value is None:
        return 100
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LuaError(f"{what} must be a number")
    if value < 1:
        raise LuaError(f"{what} must be >= 1")
    if value > 1000:
        raise LuaError(f"{what} must be <= 1000")
    return int(value)


def header_values(name: Any, value: Any) -> list[str]:
    """A header's values as Kong sets them: an empty one becomes a space.

    Raises:
        LuaError: the name or a value is not of a type for headers.
    """
    if not isinstance(name, str):
        raise LuaError(f"invalid header name: got {type(name).__name__}, expected string")
    if isinstance(value, dict):
        value = []  # a table without a list in it
    values = value if isinstance(value, list) else [value]
    if name.lower() == "content-length" and not all(re.fullmatch(r"\d+", str(item)) for item in values):
        raise LuaError("attempt to set an invalid Content-Length header")
    out = []
    for item in values:
        if isinstance(item, bytes):
            item = item.decode("utf-8", "surrogateescape")
        if isinstance(item, bool):
            item = str(item).lower()
        elif isinstance(item, int | float) and not isinstance(value, list):
            item = str(int(item) if item == int(item) else item)
        if not isinstance(item, str):
            raise LuaError(
                f"invalid header value for {name!r}: got {type(item).__name__}, expected array of string, string, "
                "number or boolean"
            )
        out.append(header_value(item) or " ")
    return out


def headers_of(table: Any) -> dict[str, list[str]]:
    """A table of headers, with `header_values` of each.

    Raises:
        LuaError: it is not one.
    """
    if table in (None, []):
        return {}
    if not isinstance(table, dict):
        raise LuaError("headers must be a table")
    return {name: header_values(name, value) for name, value in table.items()}


def query_table(query: str, most: int) -> dict[str, Any]:
    """A query as `ngx.req.get_uri_args` gives it: text, `True` without a value, a list where there are several."""
    parts = [part for part in query.split("&") if part and not part.startswith("=")]
    table: dict[str, Any] = {}
    for name, values in parse_args("&".join(parts[:most])).items():
        items = [True if value is None else value for value in values]
        table[name] = items[0] if len(items) == 1 else items
    return table


def is_header(name: str, wanted: str) -> bool:
    """Whether a header is meant; `_` is as good as `-`."""
    return name.lower().replace("_", "-") == wanted
