"""Type hints: `def access(self, kong: kong.kong)`. The hints themselves are in `__init__.pyi`, for editors.

At run time each name is a class of its own, at any depth, so that all of them can be annotations: `kong.kong.request`,
`kong.kong.request | None`. The original has modules for them, too: `from kong_pdk.pdk.kong.request import request`.
"""

from __future__ import annotations

import logging
import sys
import warnings
from types import ModuleType
from typing import Any, TypeVar

__all__ = ["kong"]

number = TypeVar("number", int, float)
table = TypeVar("table", list[Any], dict[str, Any])
cdata = Any
err = str

_MODULES = (
    "client", "client.tls", "cluster", "ctx", "ctx.shared", "enterprise_edition", "enterprise_edition.jwe", "ip",
    "log", "nginx", "nginx.shared", "node", "plugin", "request", "response", "router", "service", "service.request",
    "service.response", "telemetry", "vault",
)  # fmt: skip
_LEVELS = {"alert": 50, "crit": 50, "err": 40, "warn": 30, "debug": 10}
_READS = ("get_", "is_")


class _Hint(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _hint(f"{cls.__qualname__}.{name}")

    def __call__(cls, *args: Any) -> Any:
        """Log what is to be logged, and give None for what is asked, as the original does for all.

        Raises:
            TypeError: it would have changed or answered something.
        """
        if cls.__module__ != __name__:  # a class of a plugin's own that is derived from it
            return super().__call__(*args)
        place, _, name = cls.__qualname__.rpartition(".")
        if "kong.log" in (place, cls.__qualname__):
            logging.getLogger("kong_pdk").log(_LEVELS.get(name, logging.INFO), " ".join(map(str, args)))
            return None
        told = f"{__name__} is for type hints: use the `kong` object that your handler gets for {cls.__qualname__}"
        if not name.startswith(_READS):
            raise TypeError(told)
        warnings.warn(f"{told}; here it gives None", stacklevel=2)
        return None


def _hint(qualname: str) -> _Hint:
    return _Hint(qualname.rpartition(".")[2], (), {"__module__": __name__, "__qualname__": qualname})


kong = _hint("kong")
"""What a phase handler's argument looks like."""

for _path in _MODULES:
    _above, _, _name = f"{__name__}.{_path}".rpartition(".")
    _module = sys.modules[f"{_above}.{_name}"] = ModuleType(f"{_above}.{_name}")
    _module.__path__ = []
    setattr(_module, _name, _hint(f"kong.{_path}"))
    setattr(sys.modules[_above], _name, _module)
