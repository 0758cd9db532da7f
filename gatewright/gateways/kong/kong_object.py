"""The `kong` object that phase handlers get: every method of Kong's Plugin Development Kit, called over the wire.

`kong.request.get_header("host")` is a name and arguments; what exists is Kong's affair. A `def` handler gets values,
an `async def` handler awaits them. In Lua style a call gives `(value, None)` or `(None, error)`, otherwise the value,
and an error is raised.

Known names are attributes of classes, which are found much faster than what `__getattr__` makes up, and no line of
Python runs to make their objects: each has nothing but the one above it, `kong` itself what carries calls out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec

from gatewright.gateways.kong.pdk import METHODS
from gatewright.runtime.pdk import PdkError

__all__ = ["Kong", "LuaStyleAsyncKong", "LuaStyleKong"]

Call = Callable[[str, Sequence[Any]], Any]
"""Carries a call out: gives its value, or something to await."""
Way = Callable[[Callable[[Any], Call], str], Callable[..., Any]]
"""Makes a method from what finds the `Call` of its object, and the name."""


class _Node(msgspec.Struct, eq=False):
    """A place in the tree of names."""

    _up: Any


class _Other(msgspec.Struct, eq=False):
    """A place that has no class of its own, and, when it's called, a method."""

    _call: Call
    _place: str
    _way: Way

    def __getattr__(self, name: str) -> _Other:
        if name[:2] == "__":
            raise AttributeError(name)
        return _Other(self._call, f"{self._place}.{name}", self._way)

    def __call__(self, *args: Any) -> Any:
        return self._way(attrgetter("_call"), self._place)(self, *args)

    def __repr__(self) -> str:
        return f"<{self._place}>"


def _plain(call_of: Callable[[Any], Call], name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any) -> Any:
        return call_of(self)(name, args)

    return method


def _lua_style(call_of: Callable[[Any], Call], name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any) -> Any:
        try:
            return call_of(self)(name, args), None
        except PdkError as error:
            return None, str(error)

    return method


def _lua_style_later(call_of: Callable[[Any], Call], name: str) -> Callable[..., Any]:
    async def method(self: Any, *args: Any) -> Any:
        try:
            return await call_of(self)(name, args), None
        except PdkError as error:
            return None, str(error)

    return method


def _class_of(place: str, names: Sequence[str], way: Way) -> Callable[[Any], Any]:
    """The class of a place.

    Args:
        place: such as `kong.service`.
        names: the rest of each method's name below it, such as `request.set_path`.
        way: how its methods work.
    """
    call_of = attrgetter(".".join(["_up"] * len(place.split("."))))

    def made_up(self: Any, name: str) -> Any:
        if name[:2] == "__":
            raise AttributeError(name)
        return _Other(call_of(self), f"{place}.{name}", way)

    members: dict[str, Any] = {
        "__module__": __name__,
        "__call__": way(call_of, place),
        "__getattr__": made_up,
        "__repr__": lambda _: f"<{place}>",
    }
    for first in {name.partition(".")[0] for name in names}:
        below = [rest for name in names for head, dot, rest in [name.partition(".")] if head == first and dot]
        full = f"{place}.{first}"
        members[first] = property(_class_of(full, below, way)) if below else way(call_of, full)
    return msgspec.defstruct(place, [], bases=(_Node,), namespace=members, eq=False)


_NAMES: Final = [name.partition(".")[2] for name in METHODS]
Kong: Final = _class_of("kong", _NAMES, _plain)
"""`Kong(call)`: a call gives what `call` gives, a value or something to await."""
LuaStyleKong: Final = _class_of("kong", _NAMES, _lua_style)
"""`LuaStyleKong(call)`: a call gives its value and no error, or none and an error."""
LuaStyleAsyncKong: Final = _class_of("kong", _NAMES, _lua_style_later)
"""As `LuaStyleKong`, to be awaited."""
