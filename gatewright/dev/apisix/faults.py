"""How a request may end before its time."""

from __future__ import annotations

__all__ = ["ClientGoneError", "LuaError"]


class LuaError(Exception):
    """APISIX's Lua code aborts: the client gets a 500 page, whatever `allow_degradation` says."""


class ClientGoneError(Exception):
    """The client closes its side before its body has come."""
