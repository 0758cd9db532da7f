"""`request.ctx` on its way from the request phase to the response phase, which another worker may serve.

What goes on is a copy, as text or bytes that any worker can read, and so plain data only: `None`, booleans, numbers,
`str`, `bytes`, lists and dicts (a tuple arrives as a list). What is none stays behind, and whoever looks for it in the
response phase is told so, rather than that nothing was there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgpack

from gatewright.errors import NotAvailableError
from gatewright.plugin import Plugin
from gatewright.runtime.sources import speaks_of

__all__ = ["MOST_BYTES", "KeptContext", "looks_at_ctx", "pack", "unpack"]

MOST_BYTES: Final = 64 * 1024
"""The most that is kept of one request."""
_MOST_LEFT: Final = 64
_LONGEST_NAME: Final = 200
"""Of so many names, that long, it's known why they stayed behind."""
_MOST_ABOUT_LEFT: Final = 24 * 1024
"""Bytes that this takes up at the most."""
_CTX: Final = re.compile("ctx")
_NAMES: Final = (str, int, float, bytes, bool, type(None))
_UNSUITABLE: Final = (TypeError, ValueError, OverflowError)


class KeptContext(dict[str, Any]):
    """`request.ctx` in the response phase.

    Raises:
        NotAvailableError: on looking for a name that was there in the request phase, but could not be kept.
    """

    def __init__(
        self, kept: Mapping[str, Any] | None = None, left: Mapping[str, str] | None = None, *, more: bool = False
    ) -> None:
        super().__init__(kept or {})
        self.left = dict(left or {})
        """What stayed behind, and why."""
        self.more = more
        """There was more than that."""

    def _see(self, name: object) -> None:
        if super().__contains__(name):
            return
        if type(name) not in _NAMES:
            why = f"a name is a str, not {type(name).__name__}"
        elif name in self.left:
            why = self.left[name]
        elif self.more:
            why = f"more than {_MOST_LEFT} names could not be kept, or such as are too long; this may be one of them"
        else:
            return
        raise NotAvailableError(f"request.ctx[{name!r}] has not come from the request phase: {why}")

    def __missing__(self, name: str) -> Any:
        self._see(name)
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        self._see(name)
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """A value, or `default`."""
        self._see(name)
        return super().get(name, default)

    def setdefault(self, name: str, default: Any = None) -> Any:
        """A value, set if there is none."""
        self._see(name)
        return super().setdefault(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        """Take a value out."""
        self._see(name)
        return super().pop(name, *default)


def pack(ctx: Mapping[str, Any]) -> bytes:
    """What is kept of a context: no more than `MOST_BYTES`.

    Args:
        ctx: what plugins put in.
    """
    left = dict(ctx.left) if isinstance(ctx, KeptContext) else {}
    more = isinstance(ctx, KeptContext) and ctx.more
    try:
        whole = _packed(_message(dict(ctx), left, more))
    except _UNSUITABLE:
        pass
    else:
        if len(whole) <= MOST_BYTES:
            return whole
    sizes: dict[str, int] = {}
    for name, value in ctx.items():
        try:
            sizes[name] = len(_packed({name: value}))
        except _UNSUITABLE:
            left[name] = f"it holds something other than plain data ({type(value).__name__})"
    room = MOST_BYTES - _MOST_ABOUT_LEFT
    for name, size in sorted(sizes.items(), key=lambda item: item[1]):
        room -= size
        if room < 0:
            del sizes[name]
            left[name] = f"all together is longer than {MOST_BYTES} bytes"
    told = dict(item for item, _ in zip(_tellable(left), range(_MOST_LEFT), strict=False))
    untold = sum(type(name) in _NAMES for name in left) > len(told)
    return _packed(_message({name: ctx[name] for name in sizes}, told, more or untold))


def _tellable(left: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, why in left.items():
        if type(name) in _NAMES:
            try:
                fits = len(_packed(name)) <= _LONGEST_NAME
            except _UNSUITABLE:
                continue
            if fits:
                yield name, why


def _message(kept: dict[str, Any], left: dict[str, str], more: bool) -> list[Any]:
    return [kept, left, True] if more else [kept, left]


def unpack(packed: bytes) -> KeptContext:
    """The context that was kept.

    Raises:
        NotAvailableError: it's not what `pack` gave: it was changed on its way through the gateway.
    """
    try:
        match _unpacked(packed):
            case [dict() as kept, dict() as left, *more]:
                return KeptContext(kept, left, more=bool(more))
    except (ValueError, TypeError, msgpack.UnpackException):  # which one, is up to where the bytes are wrong
        pass
    raise NotAvailableError("request.ctx of the request phase can't be read: what the gateway kept was changed there")


def _unpacked(packed: bytes) -> Any:
    return msgpack.unpackb(packed, raw=False, unicode_errors="surrogateescape", strict_map_key=False)


def _packed(value: Any) -> bytes:
    tuples = 0

    def listed(each: Any) -> Any:
        nonlocal tuples
        if type(each) is tuple:
            tuples += 1
            return list(each)
        raise TypeError(type(each).__name__)

    packed: bytes = msgpack.packb(value, strict_types=True, unicode_errors="surrogateescape", default=listed)
    if tuples:
        _unpacked(packed)  # one that is a name in a dict can't be a list there
    return packed


def looks_at_ctx(plugins: Iterable[type[Plugin]]) -> bool:
    """Whether a response handler may look at `request.ctx`, by its source, and that of what its module imports."""
    return speaks_of(_CTX, [plugin for plugin in plugins if getattr(plugin, "on_response", None) is not None])
