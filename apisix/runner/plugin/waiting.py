"""What an `async def filter` gives: 0.1.0 and 0.2.0 would never wait for it, and let the request pass."""

from __future__ import annotations

import inspect
from typing import Any

from gatewright.errors import PluginError

__all__ = ["refuse_to_wait"]


def refuse_to_wait(result: Any) -> None:
    """See that a filter has done its work.

    Raises:
        PluginError: what it gave would have to be awaited, or gone through.
    """
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise PluginError("this filter is an `async def`, for which nobody waits here: write it as a `def`")
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise PluginError("there is a `yield` in this filter, so calling it has run nothing of it")
