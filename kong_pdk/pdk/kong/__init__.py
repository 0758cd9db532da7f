"""Type hints: `def access(self, kong: kong.kong)`. The hints themselves are in `__init__.pyi`, for editors."""

from __future__ import annotations

from typing import Any

__all__ = ["kong"]


class _OnlyHints(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise TypeError(f"kong_pdk.pdk.kong is for type hints: use the `kong` object that your handler gets for {name}")


class kong(metaclass=_OnlyHints):  # noqa: N801 - the name that plugins know
    """What a phase handler's argument looks like."""
