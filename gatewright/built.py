"""The modules in C, where they were built and are wanted."""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Final

__all__ = ["IN_C", "PURE_PYTHON", "brought", "line", "parts", "quick", "steps", "turn"]

PURE_PYTHON: Final = "GATEWRIGHT_PURE_PYTHON"
"""The variable of the environment that has Python do all, if it is set, both when it's installed and when it runs."""

_EDITIONS: Final = {
    "gatewright._parts": 1,
    "gatewright.gateways.apisix._quick": 2,
    "gatewright.gateways.apisix._turn": 1,
    "gatewright.gateways.kong._steps": 2,
    "gatewright.gateways.lean._brought": 1,
    "gatewright.server.drivers.kong._line": 2,
}


def _load(name: str) -> ModuleType | None:
    if os.environ.get(PURE_PYTHON):
        return None
    try:
        module = importlib.import_module(name)
    except ImportError:  # there was no compiler, or it's another machine's
        return None
    # Or else the sources are newer than what was built of them.
    return module if _EDITIONS[name] == module.EDITION else None


parts: Final = _load("gatewright._parts")
"""What a handler touches of every call (see `parts`)."""

quick: Final = _load("gatewright.gateways.apisix._quick")
"""Reads APISIX's requests."""

turn: Final = _load("gatewright.gateways.apisix._turn")
"""The usual turn of a connection with APISIX."""

brought: Final = _load("gatewright.gateways.lean._brought")
"""The lean path's frames, and what calls bring."""

steps: Final = _load("gatewright.gateways.kong._steps")
"""The usual steps of Kong's events, over both protocols."""

line: Final = _load("gatewright.server.drivers.kong._line")
"""The usual turn of a connection with Kong."""

IN_C: Final = None not in (parts, quick, turn, brought, steps, line)
"""Whether all of them are used."""
