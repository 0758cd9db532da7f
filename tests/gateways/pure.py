"""The modules that read requests, once more, as they are where nothing was built in C."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

from gatewright.gateways.apisix.built import PURE_PYTHON

_PACKAGE = "gatewright.gateways.apisix"
_NAMES = ("built", "_reading", "_shapes", "_shaped", "_request", "calls")


def _imported() -> dict[str, ModuleType]:
    kept = {name: sys.modules.pop(f"{_PACKAGE}.{name}", None) for name in _NAMES}
    package = sys.modules[_PACKAGE]
    before = os.environ.get(PURE_PYTHON)
    os.environ[PURE_PYTHON] = "1"
    try:
        return {name: importlib.import_module(f"{_PACKAGE}.{name}") for name in _NAMES}
    finally:
        if before is None:
            del os.environ[PURE_PYTHON]
        else:
            os.environ[PURE_PYTHON] = before
        for name, module in kept.items():
            if module is not None:
                sys.modules[f"{_PACKAGE}.{name}"] = module
                setattr(package, name, module)


_modules = _imported()
calls = _modules["calls"]
reading = _modules["_reading"]
assert reading.quick is None
