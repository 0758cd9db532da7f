"""`request.ctx` on its way from the request phase to the response phase, which another worker may serve.

What goes on is a copy, as text or bytes that any worker can read, and so plain data only: `None`, booleans, numbers,
`str`, `bytes`, lists and dicts (a tuple arrives as a list). What is none stays behind, and whoever looks for it in the
response phase is told so, rather than that nothing was there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgpack

from gatewright.errors import NotAvailableError
from gatewright.plugin import Plugin
from gatewright.runtime.sources import speaks_of

__all__ = ["MOST_BYTES", "KeptContext", "looks_at_ctx", "pack", "unpack"]

MOST_BYTES: Final = 64 * 1024
"""The most that is kept of one request."""
_CTX: Final = re.compile("ctx")


class KeptContext(dict[str, Any]):
    """`request.ctx` in the response phase.

    Raises:
        NotAvailableError: on looking for a name that was there in the request phase, but could not be kept.
    """

    def __init__(self, kept: Mapping[str, Any] | None = None, left: Mapping[str, str] | None = None) -> None:
        super().__init__(kept or {})
        self.left = dict(left or {})
        """What stayed behind, and why."""

    def _see(self, name: object) -> None:
        why = self.left.get(name) if isinstance(name, str) and not super().__contains__(name) else None
        if why is not None:
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


def pack(ctx: Mapping[str, Any]) -> bytes:
    """What is kept of a context.

    Args:
        ctx: what plugins put in.
    """
    left = dict(ctx.left) if isinstance(ctx, KeptContext) else {}
    try:
        whole = _packed([dict(ctx), left])
    except (TypeError, ValueError, OverflowError):
        pass
    else:
        if len(whole) <= MOST_BYTES:
            return whole
    kept: dict[str, bytes] = {}
    for name, value in ctx.items():
        if type(name) is not str:
            left[str(name)[:100]] = f"a name is a str, not {type(name).__name__}"
            continue
        try:
            kept[name] = _packed(value)
        except (TypeError, ValueError, OverflowError):
            left[name] = f"it holds something other than plain data ({type(value).__name__})"
    room = MOST_BYTES - sum(len(name) + len(why) + 8 for name, why in left.items())
    for name, value in sorted(kept.items(), key=lambda item: len(item[1])):
        room -= len(name) + len(value) + 8
        if room < 0:
            del kept[name]
            left[name] = f"all together is longer than {MOST_BYTES} bytes"
    return _packed([{name: ctx[name] for name in kept}, left])


def unpack(packed: bytes) -> KeptContext:
    """The context that was kept.

    Raises:
        NotAvailableError: it's not what `pack` gave: it was changed on its way through the gateway.
    """
    try:
        match msgpack.unpackb(packed, raw=False, unicode_errors="surrogateescape", strict_map_key=False):
            case [dict() as kept, dict() as left]:
                return KeptContext(kept, left)
    except (ValueError, TypeError, msgpack.UnpackException):  # which one, is up to where the bytes are wrong
        pass
    raise NotAvailableError("request.ctx of the request phase can't be read: what the gateway kept was changed there")


def _packed(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, strict_types=True, unicode_errors="surrogateescape", default=_listed)
    return packed


def _listed(value: Any) -> Any:
    if type(value) is tuple:
        return list(value)
    raise TypeError(type(value).__name__)


def looks_at_ctx(plugins: Iterable[type[Plugin]]) -> bool:
    """Whether a response handler may look at `request.ctx`, by its source, and that of what its module imports."""
    return speaks_of(_CTX, [plugin for plugin in plugins if getattr(plugin, "on_response", None) is not None])
