"""Which way Kong's usual steps are taken: in C where that was built, else in Python. Both do the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from gatewright.built import steps

if TYPE_CHECKING or steps is None:
    from gatewright.gateways.kong._plain_steps import MsgPackSteps, ProtoBufSteps
else:
    MsgPackSteps, ProtoBufSteps = steps.MsgPackSteps, steps.ProtoBufSteps

texts_of: Final[Callable[[bytes], dict[str, list[str]] | None] | None] = None if steps is None else steps.texts_of
"""Reads a Struct that holds texts alone, in C; `None` of another one, and where nothing was built."""

__all__ = ["MsgPackSteps", "ProtoBufSteps", "texts_of"]
