"""The `kong` object that phase handlers get: every method of Kong's Plugin Development Kit, called over the wire.

`kong.request.get_header("host")` is a name and arguments; what exists is Kong's affair. A `def` handler gets values,
an `async def` handler awaits them. In Lua style a call gives `(value, None)` or `(None, error)`, otherwise the value,
and an error is raised.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from gatewright.errors import PluginError

__all__ = ["AsyncPdk", "Caller", "PdkError", "PhaseExit", "SyncPdk"]


class PdkError(PluginError):
    """Kong could not carry out a PDK call."""


class PhaseExit(BaseException):
    """The request was answered (`kong.response.exit`): the handler ends here, its `finally` blocks included.

    Not an `Exception`, so that a handler's own `except Exception` doesn't catch it.
    """


class Caller(Protocol):
    """Whoever can call Kong."""

    def call(self, method: str, args: Sequence[Any]) -> Any:
        """Call and wait, in a strand or a plugin's thread.

        Raises:
            PdkError: Kong says that it failed.
            PhaseExit: the method ends the request.
        """

    def call_later(self, method: str, args: Sequence[Any]) -> Awaitable[Any]:
        """Call and give something to await."""


class _Node:
    """A place in the tree of names, and, when it's called, a method."""

    __slots__ = ("_call", "_name")

    def __init__(self, call: Callable[[str, Sequence[Any]], Any], name: str) -> None:
        self._call = call
        self._name = name

    def __getattr__(self, name: str) -> _Node:
        if name[:2] == "__":
            raise AttributeError(name)
        return _Node(self._call, f"{self._name}.{name}")

    def __call__(self, *args: Any) -> Any:
        return self._call(self._name, args)

    def __repr__(self) -> str:
        return f"<{self._name}>"


class SyncPdk(_Node):
    """`kong` for `def` handlers."""

    __slots__ = ()

    def __init__(self, caller: Caller, *, lua_style: bool) -> None:
        call = caller.call
        if not lua_style:
            super().__init__(call, "kong")
            return

        def in_lua_style(method: str, args: Sequence[Any]) -> tuple[Any, str | None]:
            try:
                return call(method, args), None
            except PdkError as error:
                return None, str(error)

        self._call, self._name = in_lua_style, "kong"


class AsyncPdk(_Node):
    """`kong` for `async def` handlers: `await kong.request.get_header("host")`."""

    __slots__ = ()

    def __init__(self, caller: Caller, *, lua_style: bool) -> None:
        call = caller.call_later
        if not lua_style:
            super().__init__(call, "kong")
            return

        async def in_lua_style(method: str, args: Sequence[Any]) -> tuple[Any, str | None]:
            try:
                return await call(method, args), None
            except PdkError as error:
                return None, str(error)

        super().__init__(in_lua_style, "kong")
