"""All that is needed to run workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gatewright.gateways.events import Session
from gatewright.runtime.discovery import Discovery
from gatewright.settings import Settings

__all__ = ["Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Attributes:
        settings: the effective settings.
        discover: finds the plugins; called in each worker, so that a new worker has new code.
        new_session: makes the protocol state of a new connection.
    """

    settings: Settings
    discover: Callable[[], Discovery]
    new_session: Callable[[], Session]
