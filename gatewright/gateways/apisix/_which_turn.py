"""Which way a connection's usual turn is taken: in C where that was built, else in Python. Both do the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatewright.built import turn

if TYPE_CHECKING or turn is None:
    from gatewright.gateways.apisix._plain_turn import Turn
else:
    Turn = turn.Turn

__all__ = ["Turn"]
