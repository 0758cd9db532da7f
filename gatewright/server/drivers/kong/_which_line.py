"""Which way a connection's usual turn is taken: in C where that was built, else in Python. Both do the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatewright.built import line

if TYPE_CHECKING or line is None:
    from gatewright.server.drivers.kong._plain_line import EventParts, Line
else:
    EventParts, Line = line.EventParts, line.Line

__all__ = ["EventParts", "Line"]
