"""The module in C, where it was built and is wanted."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Final

__all__ = ["PURE_PYTHON", "quick"]

PURE_PYTHON: Final = "GATEWRIGHT_PURE_PYTHON"
"""The variable of the environment that has Python do all, if it is set, both when it's installed and when it runs."""

_EDITION: Final = 1

quick: ModuleType | None = None
if not os.environ.get(PURE_PYTHON):
    try:
        from gatewright.gateways.apisix import _quick
    except ImportError:  # there was no compiler, or it's another machine's
        pass
    else:
        if _quick.EDITION == _EDITION:  # else the sources are newer than what was built of them
            quick = _quick
