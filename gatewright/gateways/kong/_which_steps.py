"""Which way Kong's usual steps are taken: in C where that was built, else in Python. Both do the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatewright.built import steps

if TYPE_CHECKING or steps is None:
    from gatewright.gateways.kong._plain_steps import MsgPackSteps, ProtoBufSteps
else:
    MsgPackSteps, ProtoBufSteps = steps.MsgPackSteps, steps.ProtoBufSteps

__all__ = ["MsgPackSteps", "ProtoBufSteps"]
