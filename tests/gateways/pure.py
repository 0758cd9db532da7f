"""The modules that read requests, once more, as they are where nothing was built in C."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

from gatewright.built import PURE_PYTHON

__all__ = ["again"]

_APISIX = "gatewright.gateways.apisix"


def again(*names: str) -> list[ModuleType]:
    """Import modules once more, without C; those that were there stay those that are there."""
    kept = {name: sys.modules.pop(name, None) for name in names}
    before = os.environ.get(PURE_PYTHON)
    os.environ[PURE_PYTHON] = "1"
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        if before is None:
            del os.environ[PURE_PYTHON]
        else:
            os.environ[PURE_PYTHON] = before
        for name, module in kept.items():
            if module is not None:
                sys.modules[name] = module
                package, _, last = name.rpartition(".")
                setattr(sys.modules[package], last, module)


_NAMES = ("_reading", "_shapes", "_shaped", "_request", "calls")
_, reading, *_, calls = again("gatewright.built", *(f"{_APISIX}.{name}" for name in _NAMES))
assert reading.quick is None
