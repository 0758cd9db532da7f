"""The plan for a runner: APISIX's external plugins and the lean protocol, at one socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from gatewright.gateways.lean.frames import PREFACE
from gatewright.runtime.discovery import Discovery
from gatewright.server.drivers.apisix import driver as apisix
from gatewright.server.drivers.apisix.noted import begins_anew, last_words
from gatewright.server.drivers.apisix.stand_in import StandIn
from gatewright.server.drivers.door import Door
from gatewright.server.drivers.lean import driver as lean
from gatewright.server.worker.process import WorkerPlan
from gatewright.server.worker.service import Service
from gatewright.settings import Settings

__all__ = ["driver", "plan"]


def driver(service: Service) -> Callable[[], asyncio.Protocol]:
    """What makes the drivers of connections for a service."""
    usual, others = apisix.driver(service), {PREFACE[0]: lean.driver(service)}
    return lambda: Door(service, usual, others)


def plan(settings: Settings, discover: Callable[[], Discovery]) -> WorkerPlan:
    """The plan for a runner.

    Args:
        settings: the effective settings.
        discover: finds the plugins; called in each worker.
    """
    answers = settings.response_failure == "refuse"
    return WorkerPlan(
        settings,
        discover,
        driver,
        last_words=last_words if answers else None,
        begins_anew=begins_anew,
        stand_in=partial(StandIn, settings),
    )
