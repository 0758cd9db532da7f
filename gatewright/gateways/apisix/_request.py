"""Which way requests are read: in C where that was built, else in Python. Both give the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatewright.built import quick

if TYPE_CHECKING or quick is None:
    from gatewright.gateways.apisix._shaped import ShapedRequest as RequestReader
else:
    from gatewright.gateways.apisix._quickly import QuickRequest as RequestReader

__all__ = ["RequestReader"]
