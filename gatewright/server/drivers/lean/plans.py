"""What the gateway is to bring with the calls of each chain (see `gatewright.gateways.lean.needs`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

from gatewright.gateways.lean.needs import ALL_OF_REQUEST, ALL_OF_RESPONSE, Learner
from gatewright.plugin import Plugin
from gatewright.runtime.building import ChainBuilder
from gatewright.runtime.chain import Chain

__all__ = ["REQUEST_PHASE", "RESPONSE_PHASE", "Plans"]

REQUEST_PHASE: Final = 1
RESPONSE_PHASE: Final = 2


class Plans:
    """Plans for the chains of a worker."""

    def __init__(self, builder: ChainBuilder) -> None:
        """Begin with nothing learnt.

        Args:
            builder: knows the plugins and their deadlines.
        """
        self._builder = builder
        self._plugins: Mapping[str, type[Plugin]] = builder.plugins

    def of(self, conf: Sequence[tuple[str, str]], phases: int) -> tuple[list[bytes | None], float]:
        """The plans to begin with, for each phase that there is something to do in, and how long a call may take.

        A plugin that is not there, or has no handler for any phase that is called, counts for all: to refuse.
        """
        wanted = {"on_request": REQUEST_PHASE, "on_response": RESPONSE_PHASE}
        missing = any(not self._handlers(name, phases) for name, _ in conf)
        plans: list[bytes | None] = []
        for handler, first in (("on_request", ALL_OF_REQUEST), ("on_response", ALL_OF_RESPONSE)):
            called = bool(phases & wanted[handler])
            any_has = any(handler in self._handlers(name, phases) for name, _ in conf)
            plans.append(first if called and (missing or any_has) else None)
        plans.append(None)
        return plans, self._builder.longest_of(name for name, _ in conf)

    def _handlers(self, name: str, phases: int) -> tuple[str, ...]:
        plugin = self._plugins.get(name)
        if plugin is None:
            return ()
        called = {"on_request": phases & REQUEST_PHASE, "on_response": phases & RESPONSE_PHASE}
        return tuple(handler for handler in plugin.phases() if called.get(handler))

    @staticmethod
    def request(chain: Chain) -> Learner:
        """What is known of a chain's request phase."""
        learnt = chain.learnt.get("request")
        if learnt is None:
            learnt = chain.learnt["request"] = Learner(ALL_OF_REQUEST)
        return cast("Learner", learnt)

    @staticmethod
    def response(chain: Chain) -> Learner:
        """What is known of a chain's response phase."""
        learnt = chain.learnt.get("response")
        if learnt is None:
            learnt = chain.learnt["response"] = Learner(ALL_OF_RESPONSE, body="rbody")
        return cast("Learner", learnt)
