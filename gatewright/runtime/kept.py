"""`request.ctx` on its way from the request phase to the response phase, which another worker may serve.

What goes on is a copy, as text or bytes that any worker can read, and so plain data only: `None`, booleans, numbers,
`str`, `bytes`, lists and dicts (a tuple arrives as a list). What is none stays behind, and whoever looks for it in the
response phase is told so, rather than that nothing was there.
"""

from __future__ import annotations

import inspect
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgpack

from gatewright.errors import NotAvailableError
from gatewright.plugin import Plugin

__all__ = ["MOST_BYTES", "KeptContext", "looks_at_ctx", "pack", "unpack"]

MOST_BYTES: Final = 64 * 1024
"""The most that is kept of one request."""
_OWN: Final = ("gatewright", "apisix", "kong_pdk", "builtins")


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
    """The context that was kept."""
    kept, left = msgpack.unpackb(packed, raw=False, unicode_errors="surrogateescape", strict_map_key=False)
    return KeptContext(kept, left)


def _packed(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, strict_types=True, unicode_errors="surrogateescape", default=_listed)
    return packed


def _listed(value: Any) -> Any:
    if type(value) is tuple:
        return list(value)
    raise TypeError(type(value).__name__)


def looks_at_ctx(plugins: Iterable[type[Plugin]]) -> bool:
    """Whether a response handler may look at `request.ctx`, by its source, and that of what its module imports."""
    seen: set[str] = set()
    return any(
        _mentions_ctx(sys.modules.get(each.__module__), seen, _home_of(plugin))
        for plugin in plugins
        if getattr(plugin, "on_response", None) is not None
        for each in plugin.__mro__
    )


def _home_of(plugin: type[Plugin]) -> str:
    """The package that a plugin comes in: its modules are looked into, be they installed."""
    parts = plugin.__module__.split(".")
    return ".".join(parts[:3]) if parts[:2] == ["gatewright", "plugins"] else parts[0]


def _mentions_ctx(module: ModuleType | None, seen: set[str], home: str) -> bool:
    if module is None or module.__name__ in seen:
        return False
    seen.add(module.__name__)
    file = getattr(module, "__file__", None)
    if file is None or not (_is_within(module.__name__, home) or _may_be_a_plugins(module.__name__, file)):
        return False
    try:
        if "ctx" in inspect.getsource(module):
            return True
    except (OSError, TypeError):
        return True  # who knows?
    names = {value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
             for value in list(vars(module).values())}  # fmt: skip
    return any(_mentions_ctx(sys.modules.get(name), seen, home) for name in names if isinstance(name, str))


def _is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _may_be_a_plugins(name: str, file: str) -> bool:
    return name.partition(".")[0] not in _OWN and not _is_installed(file)


def _is_installed(file: str) -> bool:
    path = Path(file)
    return any(path.is_relative_to(sysconfig.get_path(name)) for name in ("stdlib", "platlib", "purelib"))
