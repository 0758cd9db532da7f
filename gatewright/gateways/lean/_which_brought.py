"""Which way a call's things are kept: in C where that was built, else in Python. Both do the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatewright.built import brought

if TYPE_CHECKING or brought is None:
    from gatewright.gateways.lean._plain_brought import Brought
else:
    Brought = brought.Brought

__all__ = ["Brought"]
