"""What the gateway is to bring with the calls of each chain (see `gatewright.gateways.lean.needs`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, cast

from gatewright.errors import GatewrightError
from gatewright.gateways.lean.needs import ALL_OF_LOG, ALL_OF_REQUEST, ALL_OF_RESPONSE, EARLY_RESPONSE, Learner
from gatewright.plugin import Plugin
from gatewright.runtime.building import ChainBuilder
from gatewright.runtime.chain import Chain

__all__ = ["REQUEST_PHASE", "RESPONSE_PHASE", "OutdatedError", "Plans"]

REQUEST_PHASE: Final = 1
RESPONSE_PHASE: Final = 2
LOG_PHASE: Final = 4
_BITS: Final = {"request": REQUEST_PHASE, "response": RESPONSE_PHASE, "log": LOG_PHASE}


class OutdatedError(GatewrightError):
    """The gateway goes by plans that are no longer right, and has to hand the configuration over anew."""


class Plans:
    """Plans for the chains of a worker."""

    def __init__(self, builder: ChainBuilder) -> None:
        """Begin with nothing learnt.

        Args:
            builder: knows the plugins and their deadlines.
        """
        self._builder = builder
        self._plugins: Mapping[str, type[Plugin]] = builder.plugins

    def to_load(self, names: Iterable[str]) -> list[str]:
        """Plugins that come along, of which nothing is known before they are imported: which phases they have."""
        return self._builder.to_load(names)

    def load(self, names: Iterable[str]) -> None:
        """Import them. To be called in a strand."""
        self._builder.load(names)

    def of(self, conf: Sequence[tuple[str, str]], phases: int) -> tuple[list[bytes | None], float]:
        """The plans to begin with, for each phase that there is something to do in, and how long a call may take.

        A plugin that is not there, or has no handler for any phase that is called, counts for all: to refuse. What
        `to_load` names has to be loaded before.
        """
        handlers = [self._handlers(name, phases) for name, _ in conf]
        missing = not all(handlers)  # it counts wherever a call can be refused
        has = {name for each in handlers for name in each}
        request = ALL_OF_REQUEST if phases & REQUEST_PHASE and (missing or "on_request" in has) else None
        response = None
        if phases & RESPONSE_PHASE and (missing or "on_response" in has):
            response = EARLY_RESPONSE if self._is_early(name for name, _ in conf) else ALL_OF_RESPONSE
        log = ALL_OF_LOG if "on_log" in has else None
        return [request, response, log], self._builder.longest_of(name for name, _ in conf)

    @staticmethod
    def promise(plans: Sequence[bytes | None], seconds: float) -> str:
        """What a gateway is told to expect of a chain, in few characters: in its key, it lives as long as the token."""
        kinds = "".join(
            "e" if plan == EARLY_RESPONSE else letter
            for letter, plan in zip("qpl", plans, strict=True)
            if plan is not None
        )
        return f"{kinds}{seconds:g}"

    def is_kept(self, chain: Chain) -> bool:
        """Whether a chain still does what the gateway was told that it does.

        With a reload a plugin may have got another handler, which a gateway that goes by its old plans would never
        call: it has to hand the configuration over anew. To be called in a strand: plugins may have to be imported,
        where another worker gave the token out.
        """
        kept: bool | None = chain.learnt.get("kept")
        if kept is None:
            self._builder.load(chain.names)
            phases = sum(bit for phase, bit in _BITS.items() if phase in (chain.phases_called or ()))
            kept = chain.promised == self.promise(*self.of([(name, "") for name in chain.names], phases))
            chain.learnt["kept"] = kept
        return kept

    def _is_early(self, names: Iterable[str]) -> bool:
        plugins = [self._plugins.get(name) for name in names]
        return all(
            plugin is None or plugin.early_response
            for plugin in plugins
            if plugin is None or "on_response" in plugin.phases()
        )

    def _handlers(self, name: str, phases: int) -> tuple[str, ...]:
        plugin = self._plugins.get(name)
        if plugin is None:
            return ()
        called = {"on_request": phases & REQUEST_PHASE, "on_response": phases & RESPONSE_PHASE}
        own = tuple(handler for handler in plugin.phases() if called.get(handler))
        return (*own, "on_log") if phases & LOG_PHASE and plugin.logs() else own

    def _check(self, chain: Chain) -> None:
        if not self.is_kept(chain):
            raise OutdatedError("its plugins' handlers have changed since the gateway handed it over")

    def request(self, chain: Chain) -> Learner:
        """What is known of a chain's request phase.

        Raises:
            OutdatedError: see `is_kept`.
        """
        learnt = chain.learnt.get("request")
        if learnt is None:
            self._check(chain)
            learnt = chain.learnt["request"] = Learner(ALL_OF_REQUEST)
        return cast("Learner", learnt)

    def response(self, chain: Chain) -> Learner:
        """What is known of a chain's response phase; see `request`."""
        learnt = chain.learnt.get("response")
        if learnt is None:
            self._check(chain)
            early = self._is_early(chain.names)  # its steps may still have to be made
            first = EARLY_RESPONSE if early else ALL_OF_RESPONSE
            learnt = chain.learnt["response"] = Learner(first, body="rbody")
        return cast("Learner", learnt)
