"""The `kong` object that phase handlers get: every method of Kong's Plugin Development Kit, called over the wire.

`kong.request.get_header("host")` is a name and arguments; what exists is Kong's affair. A `def` handler gets values,
an `async def` handler awaits them: what a call gives is up to the function that the object was made with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from gatewright.gateways.kong.pdk import METHODS

__all__ = ["Kong"]

Call = Callable[[str, Sequence[Any]], Any]


class _Node:
    """A place in the tree of names, and, when it's called, a method."""

    __slots__ = ("_call",)
    _name = ""

    def __init__(self, call: Call) -> None:
        self._call = call

    def __getattr__(self, name: str) -> _Node:
        if name[:2] == "__":
            raise AttributeError(name)
        return _Other(self._call, f"{self._name}.{name}")

    def __call__(self, *args: Any) -> Any:
        return self._call(self._name, args)

    def __repr__(self) -> str:
        return f"<{self._name}>"


class _Other(_Node):
    """One that has no class of its own."""

    __slots__ = ("_name",)

    def __init__(self, call: Call, name: str) -> None:
        self._call = call
        self._name = name


def _class_of(place: str, names: Sequence[str]) -> type[_Node]:
    """The class for a place, with a method for each name below it: attributes that exist are much faster than others.

    Args:
        place: such as `kong.service`.
        names: the rest of each method's name, such as `request.set_path`.
    """
    members: dict[str, Any] = {"__slots__": (), "_name": place}
    for first in {name.partition(".")[0] for name in names}:
        below = [rest for name in names for head, dot, rest in [name.partition(".")] if head == first and dot]
        full = f"{place}.{first}"
        members[first] = _namespace(_class_of(full, below)) if below else _method(full)
    return type(place, (_Node,), members)


def _namespace(of: type[_Node]) -> property:
    return property(lambda self: of(self._call))


def _method(name: str) -> Callable[..., Any]:
    def method(self: _Node, *args: Any) -> Any:
        return self._call(name, args)

    method.__name__ = method.__qualname__ = name
    return method


Kong: Final = _class_of("kong", [name.partition(".")[2] for name in METHODS])
"""`Kong(call)` is the `kong` object whose methods end in `call(method, arguments)`."""
