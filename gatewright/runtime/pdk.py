"""What ends in an odd way when handlers call Kong (its Plugin Development Kit)."""

from __future__ import annotations

from gatewright.errors import PluginError

__all__ = ["PdkError", "PhaseExit"]


class PdkError(PluginError):
    """Kong could not carry out a PDK call."""


class PhaseExit(BaseException):
    """The request was answered (`kong.response.exit`): the handler ends here, its `finally` blocks included.

    Not an `Exception`, so that a handler's own `except Exception` doesn't catch it.
    """
